"""What JUnit XML shows of a result: a short property for each budget and limit, the findings, their certainty."""

from __future__ import annotations

from collections import Counter

from pytest_isolation.model import Confidence, Result


def properties(result: Result) -> list[tuple[str, object]]:
    """Properties for a test case; parsers of CI systems want them short."""
    shown: list[tuple[str, object]] = []
    for verdict in result.verdicts:
        budget = verdict.budget
        name = f"isolation_{budget.span or 'body'}_{budget.name}"
        shown.append((name, f"{verdict.outcome} n={verdict.samples} over={verdict.over} limit={budget.limit_s:g}s"))
    for limit in result.memory:
        value = "-" if limit.value_bytes is None else f"{limit.value_bytes:.0f}B"
        name = f"isolation_memory_{limit.what}"
        shown.append((name, f"{limit.outcome} value={value} limit={limit.limit_bytes:.0f}B runs={limit.runs}"))
    if result.phases:
        shown.append(("isolation_findings", str(len(result.findings))))
    if result.findings:
        counts = Counter(finding.confidence for finding in result.findings)
        shown.append(("isolation_confidence", ", ".join(f"{counts[one]} {one}" for one in Confidence if counts[one])))
    return shown
