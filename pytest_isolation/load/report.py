"""What a load test proved, as a table for people and as JSON for machines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Any

from pytest_isolation.load.outcome import Course, Line, Outcome, Word
from pytest_isolation.load.samples import EXACT
from pytest_isolation.reports.figures import duration
from pytest_isolation.reports.findings import finding_text
from pytest_isolation.reports.json import environment
from pytest_isolation.reports.table import aligned
from pytest_isolation.verdicts import Estimate, Interval

VERSION = 1
_SHOWN_FINDINGS = 3
_MB, _KB = 1e6, 1e3
_HEADING = ("phase", "operation", "attempts", "errors", "p50", "p95", "p99", "max", "target", "machine", "verdict")


def text(outcome: Outcome) -> str:
    """Everything, for a person."""
    plan = outcome.plan
    head = f"isolation load: {outcome.target}; {plan.users} users, seed {plan.seed}"
    parts = [head, "\n".join(_table(outcome)), "\n".join(_remarks(outcome))]
    parts += [finding_text(finding, "") for finding in outcome.findings[:_SHOWN_FINDINGS]]
    if outcome.leaks > _SHOWN_FINDINGS:
        parts.append(f"… and {outcome.leaks - _SHOWN_FINDINGS:,} more requests")
    return "\n\n".join([*parts, verdict(outcome)])


def verdict(outcome: Outcome) -> str:
    """The last lines: how it ended, and why."""
    undecided = sum(line.verdict in (Word.UNDECIDED, Word.TOO_FEW) for line in outcome.lines)
    doubt = f", {undecided} of {len(outcome.lines)} lines have too few attempts to prove their p95" if undecided else ""
    head = "INTERRUPTED: what was measured until then is above\n" if outcome.interrupted else ""
    return "\n".join([f"{head}{outcome.verdict.upper()}{doubt}", *(f"  {reason}" for reason in outcome.complaints)])


def _table(outcome: Outcome) -> list[str]:
    return aligned([_HEADING, *(_row(line, outcome.plan.target_s) for line in outcome.lines)])


def _row(line: Line, target_s: float) -> tuple[str, ...]:
    found = {estimate.quantile: _estimate(estimate) for estimate in line.estimates}
    return (
        line.phase,
        line.operation,
        f"{line.attempts:,}",
        f"{line.errors:,}",
        *(found.get(q, "–") for q in (0.5, 0.95, 0.99)),
        duration(line.longest_s) if line.longest_s else "–",
        f"p95 ≤ {duration(target_s)}",
        _percent(line.machine) if line.machine is not None else "no clock",
        line.verdict.value,
    )


def _estimate(estimate: Estimate) -> str:
    low, high = (duration(end) if isfinite(end) else "?" for end in estimate.interval)
    value = duration(estimate.value_s) if isfinite(estimate.value_s) else "failed"
    return f"{value} ({low} … {high})"


def _remarks(outcome: Outcome) -> Iterator[str]:
    found = f"{outcome.leaks:,} requests got a secret" if outcome.leaks else "no secret"
    yield f"isolation  {outcome.searched:,} answers and events searched: {found} of somebody else"
    attempts, errors = sum(phase.attempts for phase in outcome.phases), sum(phase.errors for phase in outcome.phases)
    share = f" ({_percent(errors / attempts)})" if attempts else ""
    most = _percent(outcome.plan.max_error_rate)
    yield f"errors     {errors:,} of {attempts:,} attempts{share}; at most {most} of each phase allowed"
    for failure in outcome.failures:
        yield f"           {failure.phase}: {failure.count:,} × {failure.kind}, for example: {failure.example}"
    yield from map(_arrivals, outcome.phases)
    yield f"memory     {_memory(outcome)}"
    if not all(line.exact for line in outcome.lines):
        yield f"note       of more than {EXACT:,} latencies of a kind all are kept in bins, true to 1 %"
    for note in outcome.notes:
        yield f"note       {note}"


def _arrivals(phase: Course) -> str:
    rate = phase.attempts / phase.seconds if phase.seconds else 0.0
    usual = f"p99 {duration(phase.lag_p99_s)}, " if phase.lag_p99_s is not None else ""
    late = f"sent late by {usual}at most {duration(phase.lag_max_s)}"
    queue = f"; overloaded: the queue is still growing, {phase.backlog:,} waited at the end" if phase.overloaded else ""
    return f"arrivals   {phase.name}: {rate:,.0f}/s of {phase.users:,} users; {late}; {phase.dropped:,} dropped{queue}"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _memory(outcome: Outcome) -> str:
    trend = outcome.memory
    if trend is None:
        return "not watched: the target is somebody else's process, or the system does not tell"
    grown = f"{trend.first_bytes / _MB:.1f} → {trend.last_bytes / _MB:.1f} MB resident"
    if trend.per_thousand_bytes is None:
        return f"{grown}; {trend.note}"
    per = trend.per_thousand_bytes / _KB
    return f"{grown}; {per:+,.1f} kB for every 1,000 requests ({trend.requests:,} requests; {trend.note})"


def encode(outcome: Outcome) -> dict[str, Any]:
    """Everything as plain JSON (``reports/schema/load-1.json``); what is infinite is null."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(_without_views(outcome)))
    plain["plan"]["mix"] = {name.value: weight for name, weight in outcome.plan.mix.items()}
    return {
        "version": VERSION,
        "environment": environment(),
        "verdict": outcome.verdict.value,
        "complaints": outcome.complaints,
        **plain,
    }


def _without_views(outcome: Outcome) -> Outcome:
    """A read-only view of a dict cannot be copied, which ``asdict`` does."""
    return dataclasses.replace(outcome, plan=dataclasses.replace(outcome.plan, mix=dict(outcome.plan.mix)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Interval):
        return {"low": _plain(value.low), "high": _plain(value.high)}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, StrEnum):
        return value.value
    return None if isinstance(value, float) and not isfinite(value) else value


def save(path: Path, outcome: Outcome) -> None:
    """Write the JSON; folders on the way are made.

    Raises:
        OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(encode(outcome), indent=2) + "\n", encoding="utf-8")
