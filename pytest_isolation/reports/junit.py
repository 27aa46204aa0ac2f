"""What JUnit XML shows of a result: one short property for each budget, and the number of findings."""

from __future__ import annotations

from pytest_isolation.model import Result


def properties(result: Result) -> list[tuple[str, object]]:
    """Properties for a test case; parsers of CI systems want them short."""
    shown: list[tuple[str, object]] = []
    for verdict in result.verdicts:
        budget = verdict.budget
        name = f"isolation_{budget.span or 'body'}_{budget.name}"
        shown.append((name, f"{verdict.outcome} n={verdict.samples} over={verdict.over} limit={budget.limit_s:g}s"))
    if result.phases:
        shown.append(("isolation_findings", str(len(result.findings))))
    return shown
