"""Results as text: the failure of one test, the table of all budgets, the summary of a session."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

from pytest_isolation.model import Confidence, Finding, Kind, Result
from pytest_isolation.reports.memory import memory_table, memory_text
from pytest_isolation.reports.table import aligned
from pytest_isolation.verdicts import Arrivals, Comparison, Estimate, MachineTime, Outcome, Regression, Verdict

if TYPE_CHECKING:
    import pytest

    from pytest_isolation.settings import Settings

# A share of the sampled time that is the machine's: below it, nothing would read differently.
_WORTH_A_LINE = 0.02
_WORTH_A_WORD = 0.02
_ENTRY, _MOST_WAYS = re.compile(r"\[.*?\]"), 5
_SHOWN = {Kind.LEAK: 3, Kind.DIFFERENT: 3, Kind.AMBIENT: 3}
_WORDS = {Outcome.PASS: "within", Outcome.FAIL: "over", Outcome.UNDECIDED: "undecided"}
_CERTAINTY = {
    Confidence.PROVEN: "proven",
    Confidence.DIFFERENT: "different from what users see alone",
    Confidence.SUSPECTED: "suspected: different once, and not when it was played again",
}
_HEADLINES = {Outcome.FAIL: "OVER BUDGET", Outcome.UNDECIDED: "UNDECIDED", Outcome.PASS: "WITHIN"}


def failure_text(result: Result, doubt: bool = False) -> str:
    """Why a test failed: findings first, then the budgets that are over.

    Args:
        result: of the test.
        doubt: an undecided budget is a reason too.
    """
    failing, crowd = {Outcome.FAIL, Outcome.UNDECIDED} if doubt else {Outcome.FAIL}, bool(result.phases)
    return printable(
        "\n\n".join(
            [
                *_findings(result),
                *(verdict_text(v, result.workers, crowd) for v in result.verdicts if v.outcome in failing),
                *(comparison_text(c) for c in result.comparisons if c.outcome in failing),
                *(memory_text(m) for m in result.memory if m.outcome in failing),
            ]
        )
    )


def printable(text: str) -> str:
    """A text that any terminal, file and connection takes: half a surrogate pair is shown as what it is."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _findings(result: Result) -> Iterator[str]:
    for kind in Kind:
        found = [finding for finding in result.findings if finding.kind is kind]
        shown = _shown(found, _SHOWN.get(kind, 1))
        yield from (finding_text(found[place], result.command) for place in shown)
        named = {_way(found[place]) for place in shown}
        rest: dict[str, list[Finding]] = {}
        for place, finding in enumerate(found):
            if place not in shown:
                way = _way(finding)
                rest.setdefault("" if way in named else way, []).append(finding)
        for way, more in rest.items():
            users = sorted({finding.user for finding in more})
            kept = f"\n  kept by   {more[0].kept_by}" if way else ""
            yield f"… and {len(more)} more of this kind: {_some(users)}{kept}"


def _shown(found: Sequence[Finding], most: int) -> list[int]:
    """The places of those that are told in full: the first ones, and one for each of the next things that keep some."""
    shown = list(range(min(most, len(found))))
    ways = {_way(found[place]) for place in shown}
    for place, finding in enumerate(found):
        if (way := _way(finding)) not in ways and len(ways) < _MOST_WAYS:
            ways.add(way)
            shown.append(place)
    return shown


def _way(finding: Finding) -> str:
    """What keeps it, whichever entry it is there."""
    return _ENTRY.sub("[]", finding.kept_by)


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def finding_text(finding: Finding, command: str) -> str:
    """One finding: who saw whose what; where; in which phase; what it should have been; how to see it again."""
    rows = (
        ("channel", finding.channel),
        ("phase", finding.phase),
        ("expected", finding.expected and f'what {finding.user} sees alone: "{finding.expected}"'),
        ("seen", finding.seen and f'"{finding.seen}"'),
        ("kept by", finding.kept_by),
        ("steps", finding.steps),
        ("certainty", _CERTAINTY[finding.confidence]),
        ("replay", finding.replay and f"{command} --isolation-replay={finding.replay}"),
    )
    lines = [f"  {name:<9} {text}".replace("\n", f"\n{'':12}") for name, text in rows if text]
    doubt = " (suspected)" if finding.confidence is Confidence.SUSPECTED else ""
    return "\n".join([f"{finding.kind.upper()}{doubt}  {finding.summary}", *lines])


def verdict_text(verdict: Verdict, workers: int = 1, crowd: bool = False) -> str:
    """One verdict with its evidence: what and how much, how sure, what the machine added, how the runs arrived.

    Args:
        verdict: to be told.
        workers: how many processes of xdist competed for the machine.
        crowd: the runs are those of a scenario's users.
    """
    budget = verdict.budget
    name = f"span {budget.span!r}  " if budget.span else ""
    head = f"{_HEADLINES[verdict.outcome]}  {name}{quantile_text(verdict)}, budget {duration(budget.limit_s)}"
    allowed = f"; {_percent(1 - budget.quantile)} allowed" if budget.quantile < 1 else "; none allowed"
    share = f"{_percent(verdict.over / verdict.samples)}{allowed}" if verdict.samples else "none taken"
    evidence = f"{verdict.over} of {verdict.samples} samples over budget ({share}); {verdict.reason}"
    beside = [f"{workers} workers competed for the machine"] if workers > 1 else []
    return "\n  ".join(
        [head, evidence, *_machine(verdict), *beside, *_arrivals(verdict.arrivals), *_why(verdict, crowd)]
    )


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


def comparison_text(comparison: Comparison) -> str:
    """One comparison with its evidence, in two lines."""
    headline, interval = comparison_verdict(comparison)
    each = f" of the medians of {comparison.calls} calls" if comparison.calls > 1 else ""
    return (
        f"{headline}  {comparison.name} takes {comparison.ratio:.3g} times as long as before "
        f"(99 % interval {interval}), tolerance {_percent(comparison.tolerance)}"
        f"\n  {comparison.reason}; {comparison.pairs} pairs{each}, in turn"
    )


def comparison_verdict(comparison: Comparison) -> tuple[str, str]:
    """The verdict in a word or two, and the interval of the ratio."""
    low, high = comparison.interval
    words = {Outcome.FAIL: "SLOWER", Outcome.PASS: "NO SLOWER", Outcome.UNDECIDED: "UNDECIDED"}
    interval = f"{_digits(low) if isfinite(low) else '?'} … {_digits(high) if isfinite(high) else '?'}"
    return words[comparison.outcome], interval


def regression_text(regression: Regression) -> str:
    """What today's samples say beside the stored ones, in a line."""
    span = f" [{regression.span}]" if regression.span else ""
    what = "SLOWER than the baseline" if regression.slower else "beside the baseline"
    change = regression.new_s / regression.old_s if regression.old_s else float("inf")
    return (
        f"{regression.test}{span}: {what}: median {duration(regression.new_s)}, was {duration(regression.old_s)} "
        f"(×{change:.3g}, p = {regression.p:.2g}; {regression.new_samples} and {regression.old_samples} samples)"
    )


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


def quantile_text(verdict: Verdict) -> str:
    """``p95 = 12.9 ms (99 % interval 12.1 … 13.8)``; the quantile alone where there are too few samples for it."""
    name = verdict.budget.name
    found = next((e for e in verdict.estimates if e.quantile == verdict.budget.quantile), None)
    if found is None:
        return name
    interval = f" (99 % interval {_interval(found)})" if found.quantile < 1 else ""
    return f"{name} = {duration(found.value_s)}{interval}"


def duration(seconds: float) -> str:
    """Seconds in the unit that needs no zeros, with three digits that count."""
    factor, unit = _unit(seconds)
    return f"{_digits(seconds * factor)} {unit}"


def _unit(seconds: float) -> tuple[float, str]:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return factor, unit
    return 1e9, "ns"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _interval(estimate: Estimate) -> str:
    factor, _ = _unit(estimate.value_s)
    low, high = (_digits(end * factor) if isfinite(end) else "?" for end in estimate.interval)
    return f"{low} … {high}"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


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


_LAST = ("budget", "machine", "verdict")


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
        f"{_percent(share)} / {_percent(1 - budget.quantile)}",
        *(duration(shown[q].value_s) if q in shown else "–" for q in (0.5, 0.95, 0.99)),
        f"{budget.name} = {duration(judged.value_s)}{interval}" if judged else "–",
        f"{budget.name} ≤ {duration(budget.limit_s)}",
        _share_of_machine(verdict.machine),
        _outcome(verdict),
    )


def _share_of_machine(machine: MachineTime | None) -> str:
    if machine is None:
        return "no clock"
    return _percent(machine.seconds / machine.of_s) if machine.of_s else "–"


def _outcome(verdict: Verdict) -> str:
    if verdict.arrivals is not None and verdict.arrivals.overloaded:
        return f"{verdict.outcome.value}, overloaded"
    if verdict.outcome is Outcome.PASS and verdict.machine is not None and verdict.machine.excluded:
        return "pass, machine time excluded"
    return verdict.outcome.value


def summary_line(results: Sequence[Result]) -> str:
    """What all results together say, in one line."""
    verdicts = [verdict for result in results for verdict in result.verdicts]
    scenarios = [result for result in results if result.phases]
    parts = []
    if verdicts:
        counts = {outcome: sum(v.outcome is outcome for v in verdicts) for outcome in Outcome}
        parts.append(
            f"{quantity(len(verdicts), 'budget')}: " + ", ".join(f"{n} {_WORDS[o]}" for o, n in counts.items() if n)
        )
    if compared := [each for result in results for each in result.comparisons]:
        slower = sum(each.outcome is Outcome.FAIL for each in compared)
        parts.append(f"{quantity(len(compared), 'comparison')}: {slower} slower")
    if limits := [each for result in results for each in result.memory]:
        counts = {outcome: sum(each.outcome is outcome for each in limits) for outcome in Outcome}
        parts.append(
            f"{quantity(len(limits), 'memory limit')}: " + ", ".join(f"{n} {_WORDS[o]}" for o, n in counts.items() if n)
        )
    if scenarios:
        runs = sum(phase.runs for result in scenarios for phase in result.phases)
        found = sum(len(result.findings) for result in scenarios)
        parts.append(
            f"{quantity(len(scenarios), 'scenario')} played {quantity(runs, 'time')}: {quantity(found, 'finding')}"
        )
    return "; ".join(parts)


def quantity(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is due."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def remarks(results: Iterable[Result]) -> list[str]:
    """What a reader of the summary should know besides: undecided budgets, interrupted tests, allowed findings."""
    lines = []
    for result in results:
        for verdict in result.verdicts:
            excluded = verdict.machine is not None and verdict.machine.excluded
            unsaid = result.interrupted and verdict.outcome is Outcome.FAIL  # no test will say it
            if verdict.outcome is Outcome.UNDECIDED or excluded or unsaid:
                lines.append(f"{result.nodeid}: {verdict_text(verdict)}")
        lines += [f"{result.nodeid}: {comparison_text(c)}" for c in result.comparisons if c.outcome is not Outcome.FAIL]
        lines += [f"{result.nodeid}: {memory_text(m)}" for m in result.memory if m.outcome is Outcome.UNDECIDED]
        if result.interrupted:
            if text := failure_text(replace(result, verdicts=())):  # likewise
                lines.append(text)
            lines.append(f"{result.nodeid}: interrupted; what was measured until then counts")
        lines += [f"{result.nodeid}: {note}" for note in counted(result.notes)]
    return lines


def counted(notes: Iterable[str]) -> list[str]:
    """Each note once, with how often it was noted: several checks of one test note the same."""
    return [note if times == 1 else f"{note} ({times:,} times)" for note, times in Counter(notes).items()]


def show(
    terminal: pytest.TerminalReporter, results: Sequence[Result], settings: Settings, seed: int, errors: Sequence[str]
) -> None:
    """Write the section of a session: with CI mode the table, always what a reader must know."""
    terminal.section("isolation", sep="=")
    for outcome, line in (*budget_table(results), *memory_table(results)) if settings.budget else ():
        terminal.line(line, **_COLOURS[outcome])
    for remark in remarks(results):
        terminal.line(remark, yellow=True)
    if settings.replay is not None and not any(result.findings for result in results):
        terminal.line(_CLEAN_REPLAY, yellow=True)
    for error in errors:
        terminal.line(f"ERROR: {error}", red=True, bold=True)
    if summary := summary_line(results):
        workers = max((result.workers for result in results), default=1)
        beside = f", {workers} workers competed for the machine" if workers > 1 else ""
        terminal.line(f"{summary} (seed {seed}{beside})")


_CLEAN_REPLAY = (
    "the replay met nothing: it plays the same users and secrets, but in which order tasks and threads get on is up "
    "to the event loop and the system. Run it a few times more before you call it mended"
)
_COLOURS: dict[Outcome, dict[str, bool]] = {
    Outcome.PASS: {},
    Outcome.FAIL: {"red": True, "bold": True},
    Outcome.UNDECIDED: {"yellow": True},
}
