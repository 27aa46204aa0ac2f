"""Results as text: the failure of one test, and what the section of a session says of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_isolation.model import Result
from pytest_isolation.reports.budgets import budget_table, verdict_text
from pytest_isolation.reports.comparisons import comparison_text
from pytest_isolation.reports.figures import counted, printable, quantity
from pytest_isolation.reports.findings import findings_text
from pytest_isolation.reports.memory import memory_table, memory_text
from pytest_isolation.verdicts import Outcome

if TYPE_CHECKING:
    import pytest

    from pytest_isolation.settings import Settings

_WORDS = {Outcome.PASS: "within", Outcome.FAIL: "over", Outcome.UNDECIDED: "undecided"}


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
                *findings_text(result),
                *(verdict_text(v, result.workers, crowd) for v in result.verdicts if v.outcome in failing),
                *(comparison_text(c) for c in result.comparisons if c.outcome in failing),
                *(memory_text(m) for m in result.memory if m.outcome in failing),
            ]
        )
    )


def summary_line(results: Sequence[Result]) -> str:
    """What all results together say, in one line."""
    scenarios = [result for result in results if result.phases]
    parts = []
    if verdicts := [each.outcome for result in results for each in result.verdicts]:
        parts.append(_outcomes("budget", verdicts))
    if compared := [each for result in results for each in result.comparisons]:
        slower = sum(each.outcome is Outcome.FAIL for each in compared)
        parts.append(f"{quantity(len(compared), 'comparison')}: {slower} slower")
    if limits := [each.outcome for result in results for each in result.memory]:
        parts.append(_outcomes("memory limit", limits))
    if scenarios:
        runs = sum(phase.runs for result in scenarios for phase in result.phases)
        found = sum(len(result.findings) for result in scenarios)
        parts.append(
            f"{quantity(len(scenarios), 'scenario')} played {quantity(runs, 'time')}: {quantity(found, 'finding')}"
        )
    return "; ".join(parts)


def _outcomes(noun: str, outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcomes)
    shown = (f"{counts[outcome]} {_WORDS[outcome]}" for outcome in Outcome if counts[outcome])
    return f"{quantity(len(outcomes), noun)}: {', '.join(shown)}"


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
