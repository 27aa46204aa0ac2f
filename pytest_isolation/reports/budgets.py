"""Verdicts on budgets as text: why one is missed, what the machine had to do with it, and the table of all budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_isolation.model import Result
from pytest_isolation.reports.figures import bounds, duration, percent, unit_of
from pytest_isolation.reports.table import aligned
from pytest_isolation.verdicts import Arrivals, Estimate, MachineTime, Outcome, Verdict

# A share of the sampled time that is the machine's: below it, nothing would read differently.
_WORTH_A_LINE = 0.02
_WORTH_A_WORD = 0.02
_HEADLINES = {Outcome.FAIL: "OVER BUDGET", Outcome.UNDECIDED: "UNDECIDED", Outcome.PASS: "WITHIN"}
_LAST = ("budget", "machine", "verdict")


def verdict_text(verdict: Verdict, workers: int = 1, crowd: bool = False) -> str:
    """One verdict with its evidence: what and how much, how sure, what the machine added, how the runs arrived.

    Args:
        verdict: to be told.
        workers: how many processes of xdist competed for the machine.
        crowd: the runs are those of a scenario's users.
    """
    budget = verdict.budget
    name = f"span {budget.span!r}  " if budget.span else ""
    head = f"{_HEADLINES[verdict.outcome]}  {name}{_quantile_text(verdict)}, budget {duration(budget.limit_s)}"
    allowed = f"; {percent(1 - budget.quantile)} allowed" if budget.quantile < 1 else "; none allowed"
    share = f"{percent(verdict.over / verdict.samples)}{allowed}" if verdict.samples else "none taken"
    evidence = f"{verdict.over} of {verdict.samples} samples over budget ({share}); {verdict.reason}"
    beside = [f"{workers} workers competed for the machine"] if workers > 1 else []
    return "\n  ".join(
        [head, evidence, *_machine(verdict), *beside, *_arrivals(verdict.arrivals), *_why(verdict, crowd)]
    )


def _quantile_text(verdict: Verdict) -> str:
    """``p95 = 12.9 ms (99 % interval 12.1 … 13.8)``; the quantile alone where there are too few samples for it."""
    name = verdict.budget.name
    found = next((e for e in verdict.estimates if e.quantile == verdict.budget.quantile), None)
    if found is None:
        return name
    interval = f" (99 % interval {_interval(found)})" if found.quantile < 1 else ""
    return f"{name} = {duration(found.value_s)}{interval}"


def _interval(estimate: Estimate) -> str:
    factor, _ = unit_of(estimate.value_s)
    low, high = estimate.interval
    return bounds(low * factor, high * factor)


def _why(verdict: Verdict, crowd: bool) -> Iterator[str]:
    """Where the slowest calls spent their time, or why nobody looked."""
    cause = verdict.cause
    if cause is None:
        if verdict.outcome is Outcome.FAIL and (reason := _why_not(verdict, crowd)):
            yield f"why it was over is not looked for: {reason}"
        return
    shown = [part for part in cause.causes if part.share >= _WORTH_A_WORD]
    parts = (f"{part.name} {part.share * 100:.0f} %" + (f" ({part.where})" if part.where else "") for part in shown)
    yield f"slowest {cause.slowest} of {cause.calls} calls that were traced: {', '.join(parts)}"
    yield from cause.notes


def _why_not(verdict: Verdict, crowd: bool) -> str:
    """Why no call was traced; empty where that is said elsewhere, or goes without saying."""
    if crowd:
        return "a crowd is not traced. Mark the same body with `latency` alone, concurrency=… for several at once"
    if verdict.arrivals is not None and verdict.arrivals.rate is not None:
        return "without the load that arrives, a traced run would tell another story"
    if verdict.budget.span is not None:
        return f"only what is measured by itself is traced: `latency.measure(part, span={verdict.budget.span!r})`"
    return ""


def _machine(verdict: Verdict) -> Iterator[str]:
    """What the machine added, where it says so and it matters."""
    machine = verdict.machine
    if machine is None:
        if verdict.outcome is not Outcome.PASS:
            yield "no machine clock: time that other processes took cannot be told from the code's own"
        return
    if not machine.excluded and machine.seconds < _WORTH_A_LINE * machine.of_s:
        return
    own = ""
    if machine.estimate is not None:
        own = f"without machine time {verdict.budget.name} = {duration(machine.estimate.value_s)}, "
    yield (
        f"{own}{machine.over} of {verdict.samples} over; the machine was busy: of {duration(machine.of_s)} that were "
        f"sampled, {duration(machine.seconds)} went to waiting for a core or to a slowed one"
    )


def _arrivals(arrivals: Arrivals | None) -> Iterator[str]:
    """How the runs arrived, where they did not come one after another."""
    if arrivals is None:
        return
    if arrivals.concurrency is not None:
        yield f"{arrivals.concurrency} in flight at once, each followed by the next (closed)"
        return
    users = f"{arrivals.users} users, each " if arrivals.users else ""
    lag = f", begun {duration(arrivals.lag_s)} late (p95)" if arrivals.lag_s is not None else ""
    dropped = f", {arrivals.dropped} dropped because too many were in flight" if arrivals.dropped else ""
    yield f"paced: {users}{arrivals.rate:g} arrivals a second, timed from when they were due{lag}{dropped}"


def session_failures(result: Result, doubt: bool) -> Iterator[tuple[str, str]]:
    """The session budgets that are not kept: the name of each, and why.

    Args:
        result: of the session.
        doubt: an undecided budget is a failure too.
    """
    for verdict in result.verdicts:
        budget = verdict.budget
        name = f"{budget.span} {budget.name} < {budget.limit_s * 1e3:g}ms"
        if not verdict.samples:
            yield name, f"isolation_budgets: the span {budget.span!r} was never entered by any test of this session"
        elif verdict.outcome is Outcome.FAIL or (doubt and verdict.outcome is Outcome.UNDECIDED):
            yield name, verdict_text(verdict, result.workers)


def budget_table(results: Iterable[Result], first: str = "test") -> list[tuple[Outcome, str]]:
    """The table of all budgets, a line each with the outcome that colours it; the heading comes first.

    Args:
        results: whose verdicts are in it.
        first: what stands over the first column.
    """
    rows = [(verdict.outcome, _row(result, verdict)) for result in results for verdict in result.verdicts]
    if not rows:
        return []
    heading = (first, "n", "over / allowed", "p50", "p95", "p99", "judged (99 % interval)", *_LAST)
    lines = aligned([heading, *(cells for _, cells in rows)])
    return list(zip([Outcome.PASS, *(outcome for outcome, _ in rows)], lines, strict=True))


def _row(result: Result, verdict: Verdict) -> tuple[str, ...]:
    budget = verdict.budget
    shown = {estimate.quantile: estimate for estimate in verdict.estimates}
    span = f" [{budget.span}]" if budget.span else ""
    share = verdict.over / verdict.samples if verdict.samples else 0.0
    judged = shown.get(budget.quantile)
    interval = f" ({_interval(judged)})" if judged and judged.quantile < 1 else ""
    return (
        f"{result.nodeid.rpartition('::')[2]}{span}",
        str(verdict.samples),
        f"{percent(share)} / {percent(1 - budget.quantile)}",
        *(duration(shown[q].value_s) if q in shown else "–" for q in (0.5, 0.95, 0.99)),
        f"{budget.name} = {duration(judged.value_s)}{interval}" if judged else "–",
        f"{budget.name} ≤ {duration(budget.limit_s)}",
        _share_of_machine(verdict.machine),
        _outcome(verdict),
    )


def _share_of_machine(machine: MachineTime | None) -> str:
    if machine is None:
        return "no clock"
    return percent(machine.seconds / machine.of_s) if machine.of_s else "–"


def _outcome(verdict: Verdict) -> str:
    if verdict.arrivals is not None and verdict.arrivals.overloaded:
        return f"{verdict.outcome.value}, overloaded"
    if verdict.outcome is Outcome.PASS and verdict.machine is not None and verdict.machine.excluded:
        return "pass, machine time excluded"
    return verdict.outcome.value
