"""What a load test proved: counts become verdicts. Values and decisions, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pytest_isolation.load.memory import Trend
from pytest_isolation.load.plan import Plan
from pytest_isolation.load.tally import Leaks, PhaseTally
from pytest_isolation.model import Finding
from pytest_isolation.reports.figures import duration
from pytest_isolation.verdicts import Estimate

JUDGED = 0.95


_LATE = "{}: requests were sent late, so what is slow there may be the machine that makes the load, or this event loop"


class Word(StrEnum):
    """What is said of a line of the table."""

    PASS = "pass"
    EXCLUDED = "pass, machine time excluded"
    FAIL = "fail"
    UNDECIDED = "undecided"
    TOO_FEW = "too few"
    OVERLOADED = "overloaded"


@dataclass(frozen=True, slots=True)
class Line:
    """One operation in one phase.

    Attributes:
        phase: its name.
        operation: its name.
        attempts: how many ended, well or not.
        errors: how many of them failed.
        estimates: p50, p95, p99 as far as there are samples for them; none of an overloaded phase.
        longest_s: of those that were answered.
        exact: all latencies were kept as they were; otherwise in bins of 1 %.
        verdict: about the p95.
        machine: which share of the latencies the machine added; None where nobody knows.
        at_once: how many of the attempts came at the same moment.
        apart_s: the p95 of the others, without what the machine added; None where that says nothing else.
    """

    phase: str
    operation: str
    attempts: int
    errors: int
    estimates: tuple[Estimate, ...]
    longest_s: float
    exact: bool
    verdict: Word
    machine: float | None
    at_once: int
    apart_s: float | None


@dataclass(frozen=True, slots=True)
class Failures:
    """Attempts of one phase that failed in the same way."""

    phase: str
    kind: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Course:
    """How one phase went.

    Attributes:
        name: of the phase.
        seconds: how long users came.
        users: how many there were.
        attempts: how many ended, well or not.
        errors: how many of them failed.
        within_errors: no more than allowed.
        overloaded: users came faster than they were served.
        backlog: how many were due and not done when users ceased to come.
        dropped: arrivals that never got their turn.
        lag_p99_s: how late requests were sent though their user was free; None for too few.
        lag_max_s: the longest.
    """

    name: str
    seconds: float
    users: int
    attempts: int
    errors: int
    within_errors: bool
    overloaded: bool
    backlog: int
    dropped: int
    lag_p99_s: float | None
    lag_max_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a load test proved.

    Attributes:
        target: its name.
        plan: what was to be done.
        phases: how each went.
        lines: one for each operation of each phase.
        failures: what failed, by phase and kind.
        leaks: how many requests got a secret of somebody else.
        searched: how many answers and events were looked at.
        findings: the first of the leaks.
        memory: of the target; None if it could not be watched.
        interrupted: it was stopped, and this is what was measured until then.
        notes: what a reader should know besides.
    """

    target: str
    plan: Plan
    phases: tuple[Course, ...]
    lines: tuple[Line, ...]
    failures: tuple[Failures, ...]
    leaks: int
    searched: int
    findings: tuple[Finding, ...]
    memory: Trend | None
    interrupted: bool
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Word:
        """Pass if something was proven and nothing complained of."""
        if self.complaints:
            return Word.FAIL
        return Word.PASS if any(line.verdict in _KEPT for line in self.lines) else Word.UNDECIDED

    @property
    def complaints(self) -> list[str]:
        """Why it failed, a line for each reason; empty if it did not."""
        said = []
        if self.leaks:
            said.append(f"isolation: {self.leaks} request{'s' if self.leaks > 1 else ''} got a secret of somebody else")
        for phase in self.phases:
            if phase.overloaded:
                said.append(f"{phase.name}: overloaded: the queue is still growing")
            if not phase.within_errors:
                said.append(
                    f"{phase.name}: {phase.errors} of {phase.attempts} attempts failed, "
                    f"more than {self.plan.max_error_rate:.3g}"
                )
        said += [_over(line) for line in self.lines if line.verdict is Word.FAIL]
        if not self.interrupted:
            said += self._nothing_measured
        return said

    @property
    def _nothing_measured(self) -> list[str]:
        empty = [f"{phase.name}: nothing measured: nobody came" for phase in self.phases if not phase.attempts]
        words = {line.verdict for line in self.lines}
        if not empty and words <= {Word.TOO_FEW}:
            return ["nothing measured: no line has the 20 attempts that a p95 takes. Load it for longer, or harder"]
        return empty


_KEPT = (Word.PASS, Word.EXCLUDED)


def _over(line: Line) -> str:
    """What is said of a p95 over its target; who came all at once waited for one another."""
    said = f"{line.phase}, {line.operation}: p95 over target"
    if line.apart_s is None:
        return said
    share = 100 * line.at_once / line.attempts
    return (
        f"{said}; {line.at_once:,} of {line.attempts:,} attempts ({share:.2g} %) came at the same moment "
        f"and waited for one another, and of the others p95 = {duration(line.apart_s)}"
    )


def conclude(
    target: str,
    plan: Plan,
    tallies: Sequence[PhaseTally],
    leaks: Leaks,
    memory: Trend | None,
    *,
    interrupted: bool = False,
    notes: Sequence[str] = (),
    knows_machine: bool = False,
) -> Outcome:
    """Judge what was counted.

    Args:
        target: its name.
        plan: what was to be done.
        tallies: of the phases that were begun.
        leaks: what was found.
        memory: of the target.
        interrupted: it was stopped.
        notes: what a reader should know besides.
        knows_machine: what the machine added was told from the rest.
    """
    phases = tuple(_course(plan, tally) for tally in tallies)
    notes = [*notes, *(_LATE.format(phase.name) for phase in phases if (phase.lag_p99_s or 0) > plan.target_s / 2)]
    return Outcome(
        target=target,
        plan=plan,
        phases=phases,
        lines=tuple(
            line
            for tally, phase in zip(tallies, phases, strict=True)
            for line in _lines(plan, tally, phase.overloaded, knows_machine)
        ),
        failures=tuple(
            Failures(tally.phase.name, kind, fault.count, fault.example)
            for tally in tallies
            for kind, fault in sorted(tally.faults.items(), key=lambda item: -item[1].count)
        ),
        leaks=leaks.answers,
        searched=leaks.searched,
        findings=tuple(leaks.findings),
        memory=memory,
        interrupted=interrupted,
        notes=tuple(notes),
    )


def _course(plan: Plan, tally: PhaseTally) -> Course:
    lag = {estimate.quantile: estimate.value_s for estimate in tally.lag.estimates}
    curve = tally.backlog.curve(tally.seconds)
    return Course(
        name=tally.phase.name,
        seconds=tally.seconds,
        users=plan.users + tally.phase.newcomers,
        attempts=tally.attempts,
        errors=tally.errors,
        within_errors=tally.errors <= plan.max_error_rate * tally.attempts,
        overloaded=bool(tally.dropped) or tally.backlog.is_growing(tally.seconds),
        backlog=curve[-1] if curve else 0,
        dropped=tally.dropped,
        lag_p99_s=lag.get(0.99),
        lag_max_s=tally.lag.longest_s,
    )


def _lines(plan: Plan, tally: PhaseTally, overloaded: bool, knows_machine: bool) -> Iterable[Line]:
    for name, counted in tally.operations.items():
        estimates = () if overloaded else counted.latencies.estimates
        apart = {e.quantile: e.value_s for e in counted.apart.estimates} if counted.at_once and not overloaded else {}
        yield Line(
            phase=tally.phase.name,
            operation=name.value,
            attempts=counted.attempts,
            errors=counted.errors,
            estimates=estimates,
            longest_s=counted.latencies.longest_s,
            exact=counted.latencies.is_exact,
            verdict=Word.OVERLOADED if overloaded else _verdict(estimates, counted.own.estimates, plan.target_s),
            machine=counted.machine_s / (counted.answered_s or 1.0) if knows_machine else None,
            at_once=counted.at_once,
            apart_s=apart.get(JUDGED),
        )


def _verdict(measured: Iterable[Estimate], own: Iterable[Estimate], target_s: float) -> Word:
    """Over only if the whole interval of the own part is, within only if a whole interval is."""
    for estimate, its_own in zip(measured, own, strict=False):  # of an overloaded phase nothing is estimated
        if estimate.quantile == JUDGED:
            if its_own.interval.low > target_s:
                return Word.FAIL
            if estimate.interval.high <= target_s:
                return Word.PASS
            return Word.EXCLUDED if its_own.interval.high <= target_s else Word.UNDECIDED
    return Word.TOO_FEW
