"""What is counted while a load test runs: every attempt, and of those that failed how and one example each."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from pytest_isolation.load.backlog import Backlog
from pytest_isolation.load.plan import Operation, Phase
from pytest_isolation.load.samples import Samples
from pytest_isolation.load.target import ConnectionLost, Refused, WrongAnswer
from pytest_isolation.model import Evidence, Finding, Run
from pytest_isolation.oracles.canaries import foreign_canaries
from pytest_isolation.users.story import Story
from pytest_isolation.users.transcript import NOBODY, labeller, plainly, shorten

_KEPT_FINDINGS = 100


class TimedOut(Exception):
    """No answer came in time."""


class CancelledByTarget(Exception):
    """The task of a request was cancelled, and not by the load test."""


@dataclass(slots=True)
class Fault:
    """Attempts that failed in the same way.

    Attributes:
        count: how many.
        example: what one of them met, with names instead of secrets.
    """

    count: int
    example: str


@dataclass(slots=True)
class Tally:
    """One operation in one phase.

    Attributes:
        attempts: how many ended, well or not.
        errors: how many of them failed.
        latencies: of all attempts, from when they were due; of one that failed it is infinite.
        own: the same without what the machine added.
        apart: the same of those only who did not come at the same moment as others.
        answered_s: all latencies of those that did not fail together.
        machine_s: what the machine added to them.
        at_once: how many attempts came at the same moment.
    """

    attempts: int = 0
    errors: int = 0
    latencies: Samples = field(default_factory=Samples)
    own: Samples = field(default_factory=Samples)
    apart: Samples = field(default_factory=Samples)
    answered_s: float = 0.0
    machine_s: float = 0.0
    at_once: int = 0

    def take(self, seconds: float, error: BaseException | None, machine_s: float = 0.0, at_once: bool = False) -> None:
        """Count an attempt.

        Args:
            seconds: from when it was due.
            error: what it failed by.
            machine_s: what of it the machine added.
            at_once: it came at the same moment as others.
        """
        self.attempts += 1
        self.errors += error is not None
        self.at_once += at_once
        self.latencies.add(seconds if error is None else inf)
        own_s = seconds - machine_s if error is None else inf
        self.own.add(own_s)
        if not at_once:
            self.apart.add(own_s)
        if error is None:
            self.answered_s += seconds
            self.machine_s += machine_s


class PhaseTally:
    """One phase.

    Args:
        phase: which.

    Attributes:
        phase: see above.
        begun: on the clock of ``perf_counter``.
        seconds: how long users came; less than planned after an interruption.
        operations: by name.
        faults: by kind.
        backlog: what was due and not done.
        lag: how late requests were sent though their user was free.
        dropped: arrivals that never got their turn.
    """

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.begun = 0.0
        self.seconds = phase.seconds
        self.operations = {name: Tally() for name in Operation if phase.mix.get(name)}
        self.faults: dict[str, Fault] = {}
        self.backlog = Backlog(phase.seconds)
        self.lag = Samples()
        self.dropped = 0

    @property
    def attempts(self) -> int:
        """Of all operations."""
        return sum(tally.attempts for tally in self.operations.values())

    @property
    def errors(self) -> int:
        """Of all operations."""
        return sum(tally.errors for tally in self.operations.values())

    def fault(self, error: BaseException, evidence: Evidence) -> None:
        """Count a failure under its kind.

        Args:
            error: what the attempt failed by.
            evidence: of the attempt; it knows whose secrets are in the text.
        """
        kind = kind_of(error)
        if kind in self.faults:
            self.faults[kind].count += 1
        else:
            self.faults[kind] = Fault(1, shorten(plainly(str(error), labeller(evidence, NOBODY))))


def kind_of(error: BaseException) -> str:
    """How an attempt failed, in two or three words."""
    match error:
        case TimedOut():
            return "timeout"
        case WrongAnswer():
            return "wrong answer"
        case Refused():
            return f"status {error.status}"
        case ConnectionLost() | ConnectionError():
            return "connection lost"
        case CancelledByTarget():
            return "cancelled"
    return f"exception {type(error).__name__}"


class Leaks:
    """Secrets that reached somebody else.

    Attributes:
        answers: how many requests had one in what they got.
        searched: how many answers and events were looked at.
        findings: each pair of user and secret once, the first of them.
    """

    def __init__(self) -> None:
        self.answers = self.searched = 0
        self.findings: list[Finding] = []
        self._story = Story(())

    def look(self, evidence: Evidence, run: Run) -> None:
        """Search what one request got."""
        self.searched += len(run.observations)
        found = list(foreign_canaries(evidence, self._story))
        self.answers += bool(found)
        self.findings += found[: _KEPT_FINDINGS - len(self.findings)]
