"""The values that say how long something took, or how much it held, and what was decided of it.

Nothing here computes a judgement; samplers and rounds make the figures, budgets read them, reports show the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Interval(NamedTuple):
    """A closed range of seconds; an end that the samples cannot support is infinite."""

    low: float
    high: float


NEVER = Interval(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper bound on a quantile of a latency.

    Attributes:
        quantile: 0 < quantile ≤ 1; 1 is the maximum.
        limit_s: the bound, in seconds.
        span: the named part that is judged; None is the whole body.
    """

    quantile: float
    limit_s: float
    span: str | None = None

    @property
    def name(self) -> str:
        """``p50``, ``p95``, ``p99.9``, ``max``."""
        return "max" if self.quantile == 1 else f"p{self.quantile * 100:g}"


class Outcome(StrEnum):
    """What a budget's samples prove."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantile of the samples with a distribution-free interval of 99 % confidence."""

    quantile: float
    value_s: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class MachineTime:
    """What of the samples was the machine's doing: waiting for a core, or for one that was slowed down.

    Attributes:
        seconds: of all samples together.
        of_s: what all samples together took.
        over: how many samples exceed the budget without it.
        estimate: the judged quantile without it; None where there are too few samples.
        excluded: the budget is proven kept only without it.
    """

    seconds: float
    of_s: float
    over: int
    estimate: Estimate | None
    excluded: bool


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How the runs of a body arrived, where they did not come one after another.

    Attributes:
        concurrency: so many were in flight at once, each followed by the next (a closed model); None is paced.
        rate: arrivals a second, fixed beforehand; of each user if there are some.
        users: so many users, each with one run at a time; None lets every arrival begin when it is due.
        lag_s: p95 of the time between due and begun; None where there are too few.
        dropped: arrivals that never began, because too many were in flight.
        overloaded: more arrived than ended, and the queue was still growing.
    """

    concurrency: int | None = None
    rate: float | None = None
    users: int | None = None
    lag_s: float | None = None
    dropped: int = 0
    overloaded: bool = False


@dataclass(frozen=True, slots=True)
class Cause:
    """A part of the time that slow calls took.

    Attributes:
        name: ``waiting for a lock``, ``own CPU``, ``loop queue``, …
        seconds: of all slow calls together.
        share: of their time, 0 to 1.
        where: the place in the user's code, or whose callback kept the loop busy; empty where that is not known.
    """

    name: str
    seconds: float
    share: float
    where: str = ""


@dataclass(frozen=True, slots=True)
class Attribution:
    """Where the slowest calls spent their time; found by running the body again with tracing.

    Attributes:
        calls: how many were traced.
        slowest: how many of them are told of.
        causes: the largest first.
        notes: what could not be seen.
    """

    calls: int
    slowest: int
    causes: tuple[Cause, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the samples say of one budget, and the evidence for it.

    Attributes:
        budget: what was judged.
        outcome: pass and fail are proven; undecided is neither.
        samples: how many latencies were judged, the confirming run's included.
        over: how many of them exceeded the budget.
        confirmed: how many samples of a second, separate run confirmed a failure.
        seconds: how long the sampling took.
        estimates: p50, p95, p99 and the judged quantile, as far as so many samples support them.
        reason: why it is undecided, or how it was decided, in one clause.
        log_e_over: natural logarithm of the evidence that the quantile lies over the budget.
        log_e_within: the same for within; an outcome is proven once its evidence reaches 1 / alpha.
        machine: what the machine added; None where it has no clock for that.
        arrivals: how the samples arrived; None is one after another.
        cause: of a failure, as far as it was looked for.
    """

    budget: Budget
    outcome: Outcome
    samples: int
    over: int
    confirmed: int
    seconds: float
    estimates: tuple[Estimate, ...]
    reason: str
    log_e_over: float
    log_e_within: float
    machine: MachineTime | None = None
    arrivals: Arrivals | None = None
    cause: Attribution | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What pairs of an old and a new version say.

    Attributes:
        name: of what was compared.
        outcome: fail is proven slower than the tolerance, pass is proven no slower, undecided is neither.
        pairs: how many were taken.
        old_s: the median of the old one.
        new_s: the median of the new one.
        ratio: the median of new by old.
        interval: of that median, with 99 % confidence.
        tolerance: how much longer the new one may take, as a share.
        slower: in how many pairs it took longer than that.
        reason: how it was decided, or why it was not.
        calls: how many calls of each there are in a pair, of which the medians count.
    """

    name: str
    outcome: Outcome
    pairs: int
    old_s: float
    new_s: float
    ratio: float
    interval: Interval
    tolerance: float
    slower: int
    reason: str
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Regression:
    """What today's samples say beside those of a stored baseline.

    Attributes:
        test: which test.
        span: which part of it; empty is the body.
        old_s: the stored median.
        new_s: the median of today.
        old_samples: how many are stored.
        new_samples: how many there are today.
        p: the chance of ranks like these if the new ones were no larger.
        slower: beyond chance, by more than the tolerance, and on the same machine.
    """

    test: str
    span: str
    old_s: float
    new_s: float
    old_samples: int
    new_samples: int
    p: float
    slower: bool


class Held(StrEnum):
    """What of a body's memory is judged."""

    GROWTH = "growth"
    PEAK = "peak"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What a body may hold.

    Attributes:
        growth_bytes: so much more is held after 1000 runs at most; None does not judge that.
        peak_bytes: so much is held at once at most, above the start; None likewise.
        object_bytes: so much an object takes at most that is weighed; None likewise.
    """

    growth_bytes: float | None = None
    peak_bytes: float | None = None
    object_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """A line whose allocations stayed, and became more.

    Attributes:
        path: the file.
        line: its number.
        source: what stands there; empty where that is not known.
        per_thousand_bytes: how much more for every 1000 runs.
        blocks: how many more in all.
    """

    path: str
    line: int
    source: str
    per_thousand_bytes: float
    blocks: int


@dataclass(frozen=True, slots=True)
class MemoryVerdict:
    """What rounds of runs say of one limit on memory, and the evidence for it.

    Attributes:
        what: was judged.
        limit_bytes: the limit; of growth, per 1000 runs.
        value_bytes: what was measured; None if nothing was.
        outcome: fail and pass as far as memory can be told; undecided where there were too few rounds or runs.
        reason: how it was decided, or why it was not.
        runs: how often the body was run.
        rounds: how many readings were judged.
        tau: how steadily memory rose from one to the next, at most 1; None where growth was not judged.
        extended: so many times the planned rounds were made, because growth was suspected.
        resident_bytes: how much more the process held per 1000 runs, as the system sees it; None if it does not tell.
        lines: what grew.
    """

    what: Held
    limit_bytes: float
    value_bytes: float | None
    outcome: Outcome
    reason: str
    runs: int
    rounds: int = 0
    tau: float | None = None
    extended: int = 1
    resident_bytes: float | None = None
    lines: tuple[Allocation, ...] = ()
