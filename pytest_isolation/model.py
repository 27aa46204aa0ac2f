"""The values that the rooms hand to one another: what was seen, what was found, and all that a test proved.

Nothing here computes a judgement; phases make evidence, oracles and budgets read it, reports show the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter

from pytest_isolation.verdicts import NEVER, Comparison, Interval, MemoryVerdict, Verdict


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
