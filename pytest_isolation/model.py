"""The values that the rooms hand to one another: what was seen and measured, what was found and decided.

Nothing here computes a judgement; phases make evidence, oracles and budgets read it, reports show the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
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


@dataclass(frozen=True, slots=True)
class Response:
    """What a response over HTTP says of itself; its body is the value of the observation.

    Attributes:
        method: of the request.
        url: of the request.
        status: three digits.
        headers: names and values as they came, in order.
        asked: the headers of the request, likewise.
    """

    method: str
    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    asked: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """Something a user saw.

    Attributes:
        channel: where it came from (response, websocket, log, exception, …).
        value: a snapshot of plain values, taken when it was seen (``users.snapshot.snapshot``).
        response: what came with it, where it is the body of a response over HTTP.
        at: when it was seen, on the clock of ``time.perf_counter``; two that differ in nothing else are equal.
    """

    channel: str
    value: object
    response: Response | None = None
    at: float = field(default_factory=perf_counter, compare=False)


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
        anonymous: the user had no credentials.
        overheard: what was logged, warned of, printed and written during its work; it counts only if it is a leak.
        waits_at: where it was still waiting, as far as that is known.
    """

    user: str
    number: int
    observations: tuple[Observation, ...]
    error: BaseException | None = None
    ended: bool = True
    seconds: float = 0.0
    played: Interval = NEVER
    machine_s: float = 0.0
    anonymous: bool = False
    overheard: tuple[Observation, ...] = ()
    waits_at: str = ""


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
class Leftover:
    """Something that goes on, or is open, though the users' runs have ended.

    Attributes:
        what: ``task``, ``timer``, ``thread``, ``process`` or ``socket``.
        name: what it does and where; the same for all that do the same.
        number: of the user whose work started it; None where that cannot be told.
    """

    what: str
    name: str
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Something of the whole process that is not as it was.

    Attributes:
        name: ``os.environ['TZ']``, ``the working directory``, …
        before: what it was, in words; None if it was not there.
        after: what it is.
    """

    name: str
    before: str | None
    after: str | None


class Lapse(StrEnum):
    """What can go wrong with something that is lent to one user after another."""

    TWO_OWNERS = "two owners"
    USED_LATE = "used after it was returned"
    DIRTY = "dirty"
    SOILED = "returned dirty"
    KEPT = "never returned"
    DROPPED = "dropped"
    TWICE = "returned twice"
    BEYOND = "beyond the limit"
    STATE = "state of a connection"
    LEFT_STATE = "state of a connection that lies in its pool"
    SEQUENCE = "the sequence of somebody else"
    SHARED_SESSION = "a session of two users"


@dataclass(frozen=True, slots=True)
class Mishap:
    """Something that went wrong with an object of a pool, or with a database session.

    Attributes:
        lapse: what it was.
        pool: the name of the pool, or of the engine.
        thing: the object, ``connection 2``.
        user: the number of the user who met it; None where that cannot be told.
        other: the number of the user who had the object before, or has it too; None likewise.
        detail: what was wrong with it; it may hold canaries.
        place: where the object was acquired.
        since: the phase in which it was, if that is over.
    """

    lapse: Lapse
    pool: str
    thing: str
    user: int | None
    other: int | None = None
    detail: str = ""
    place: str = ""
    since: str = ""


class Hold(StrEnum):
    """By what something is kept that was found by the secret in it."""

    STORE = "store"
    EXCEPTION = "exception"
    CONTEXT = "context"
    FRAME = "frame"
    CLOSURE = "closure"
    THREAD_LOCAL = "thread-local"
    REACHED = "reached by another user"


@dataclass(frozen=True, slots=True)
class Holding:
    """Something of a user that is still there when its run has ended.

    Attributes:
        owner: the number of the user.
        thing: what it is: the type of an object that was tracked, or ``the secret 'note'``.
        path: the shortest chain of references that keeps it alive, ``shop.NOTES → dict['last']``.
        since: where it was tracked.
        in_cycle: only a cycle of references kept it, until the garbage collector ran.
        by: what keeps it, where it was found by the secret in it; None where it was tracked.
        secrets: their names, where it was found so.
        user: the number of another one whose objects led to it, while both were at work.
    """

    owner: int
    thing: str
    path: str
    since: str = ""
    in_cycle: bool = False
    by: Hold | None = None
    secrets: tuple[str, ...] = ()
    user: int | None = None


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What users left behind in the process.

    Attributes:
        left: what goes on, or is open.
        changes: what is not as it was, for everybody.
        mishaps: what went wrong with pools that are watched.
        held: what is still alive of what they tracked.
    """

    left: tuple[Leftover, ...] = ()
    changes: tuple[Change, ...] = ()
    mishaps: tuple[Mishap, ...] = ()
    held: tuple[Holding, ...] = ()


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
        after: what they left behind in the process.
        after_alone: the same of each user who was alone before.
    """

    phase: str
    runs: tuple[Run, ...]
    key: str
    labels: Mapping[int, str]
    shares: frozenset[Share] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)
    replay: str = ""
    after: Aftermath = Aftermath()
    after_alone: tuple[Aftermath, ...] = ()


class Kind(StrEnum):
    """What a finding is, the gravest first."""

    LEAK = "leak"
    SESSION = "session"
    POOL = "pool"
    RETAINED = "retained"
    CACHEABLE = "cacheable"
    DIFFERENT = "different"
    AMBIENT = "ambient"
    FAILED = "failed"
    STARVED = "starved"
    LEFT = "left"


class Confidence(StrEnum):
    """How sure a finding is, the surest first."""

    PROVEN = "proven"
    DIFFERENT = "different"
    SUSPECTED = "suspected"


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at a suspension point.

    Attributes:
        name: of the exception, in tokens and reports.
        make: makes it; None lets the timers of the run expire instead.
    """

    name: str
    make: Callable[[], Exception] | None = None


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
        steps: who ran when, where the order was ours to decide: a line for each turn.
        kept_by: what keeps it alive: the shortest chain of references from a root.
        confidence: *proven* by itself, as by a secret of somebody else; *different* from what users see alone, and so
            again when it was played again; *suspected*, because it was not.
    """

    kind: Kind
    user: str
    phase: str
    summary: str
    channel: str = ""
    expected: str = ""
    seen: str = ""
    replay: str = ""
    steps: str = ""
    kept_by: str = ""
    confidence: Confidence = Confidence.PROVEN


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
        memory: one verdict for each limit on memory.
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
    memory: tuple[MemoryVerdict, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What ``isolation.check`` or ``isolation.explore`` proved.

    Attributes:
        findings: the faults, the gravest first.
        phases: how often each phase was played.
        exhausted: which schedules were all played; empty if none, or if there is a finding.
    """

    findings: tuple[Finding, ...]
    phases: tuple[PhaseCount, ...]
    exhausted: str = ""

    @property
    def runs(self) -> int:
        """How often the scenario was played in all."""
        return sum(phase.runs for phase in self.phases)
