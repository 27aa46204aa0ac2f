"""The values that the rooms hand to one another: what was seen and measured, what was found and decided.

Nothing here computes a judgement; phases make evidence, oracles and budgets read it, reports show the outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        ratio: the median of new by old.
        interval: of that median, with 99 % confidence.
        tolerance: how much longer the new one may take, as a share.
        slower: in how many pairs it took longer than that.
        reason: how it was decided, or why it was not.
    """

    name: str
    outcome: Outcome
    pairs: int
    ratio: float
    interval: Interval
    tolerance: float
    slower: int
    reason: str


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


@dataclass(frozen=True, slots=True)
class Observation:
    """Something a user saw.

    Attributes:
        channel: where it came from (response, websocket, log, exception, …).
        value: a snapshot of plain values, taken when it was seen (``users.snapshot.snapshot``).
    """

    channel: str
    value: object


@dataclass(frozen=True, slots=True)
class Run:
    """One user's way through the scenario.

    Attributes:
        user: the user's label, ``user-07``.
        number: the number that the user's canaries carry.
        observations: what it saw, in order.
        error: the exception that ended the run, None when it ended well.
        ended: False when the run was still waiting at the time limit.
        seconds: from its due time to its end.
        played: when it began and ended, on the clock of ``time.perf_counter``; it may begin later than it was due.
        machine_s: how much of the seconds the machine added.
    """

    user: str
    number: int
    observations: tuple[Observation, ...]
    error: BaseException | None = None
    ended: bool = True
    seconds: float = 0.0
    played: Interval = NEVER
    machine_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """A declared exception: this owner's secret may be seen by that user.

    Attributes:
        owner: the number of the user whose secret it is.
        name: the secret's name.
        viewer: the number of the user who may see it; None is everybody.
    """

    owner: int
    name: str
    viewer: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one phase left behind for the oracles to read.

    Attributes:
        phase: in words: ``crowd of 100 users, seed 42``.
        runs: one for each user.
        key: what all canaries of this cast carry.
        labels: the label of every user of the cast, by number.
        shares: the declared exceptions.
        names: the full name of a secret, by the form in which its canary carries it.
        replay: the token that plays this phase again.
    """

    phase: str
    runs: tuple[Run, ...]
    key: str
    labels: Mapping[int, str]
    shares: frozenset[Share] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)
    replay: str = ""


class Kind(StrEnum):
    """What a finding is, the gravest first."""

    LEAK = "leak"
    DIFFERENT = "different"
    FAILED = "failed"
    STARVED = "starved"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: who, whose, what, where, when, how to see it again.

    Attributes:
        kind: what it is.
        user: who met it.
        phase: the way of playing in which it showed, in words.
        summary: the first line: what happened.
        channel: on which channel and where in it.
        expected: what the user sees alone; empty where that says nothing.
        seen: what it saw instead, cut to a readable length.
        replay: the token that plays it again.
    """

    kind: Kind
    user: str
    phase: str
    summary: str
    channel: str = ""
    expected: str = ""
    seen: str = ""
    replay: str = ""


@dataclass(frozen=True, slots=True)
class PhaseCount:
    """How often a phase was played."""

    phase: str
    runs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """All that one test proved.

    Attributes:
        nodeid: the test.
        command: runs it alone.
        verdicts: one for each budget.
        findings: the gravest first.
        phases: how often each was played.
        seed: determines every canary.
        interrupted: it was stopped; what was measured until then is here.
        notes: what a reader should know besides.
        workers: how many processes of xdist competed for the machine.
        comparisons: of an old and a new version.
    """

    nodeid: str
    command: str = ""
    verdicts: tuple[Verdict, ...] = ()
    findings: tuple[Finding, ...] = ()
    phases: tuple[PhaseCount, ...] = ()
    seed: int | None = None
    interrupted: bool = False
    notes: tuple[str, ...] = field(default=())
    workers: int = 1
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What ``isolation.check`` proved.

    Attributes:
        findings: the faults, the gravest first.
        phases: how often each phase was played.
    """

    findings: tuple[Finding, ...]
    phases: tuple[PhaseCount, ...]

    @property
    def runs(self) -> int:
        """How often the scenario was played in all."""
        return sum(phase.runs for phase in self.phases)
