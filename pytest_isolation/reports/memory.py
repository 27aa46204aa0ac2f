"""Verdicts on memory as text: why a limit is missed and what grew, and the table of all limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_isolation.model import Result
from pytest_isolation.reports.table import aligned
from pytest_isolation.verdicts import Allocation, Held, MemoryVerdict, Outcome

_UNITS = {Held.GROWTH: ("KB", 1024), Held.PEAK: ("MB", 1024**2), Held.OBJECT: ("KB", 1024)}
_NAMES = {Held.GROWTH: "growth per 1000 runs", Held.PEAK: "peak", Held.OBJECT: "heaviest object"}
_HEADLINES = {
    (Held.GROWTH, Outcome.FAIL): "GROWS",
    (Held.PEAK, Outcome.FAIL): "OVER THE LIMIT",
    (Held.OBJECT, Outcome.FAIL): "OVER THE LIMIT",
}
_ADVICE = {
    Held.GROWTH: (
        "what stays of every run is never given back: a process that serves long enough runs out of memory. Let go of "
        "it when the run ends, or bound it (functools.lru_cache(maxsize=…), deque(maxlen=…)); if it is meant to stay, "
        "allow it: growth_kb={}"
    ),
    Held.PEAK: (
        "a process that is given less memory than it holds at once is killed, with everybody's requests. Read and "
        "answer in pieces, or bound how much is under way; if it is meant, allow it: peak_mb={}"
    ),
    Held.OBJECT: (
        "it is held once for every request that is under way. What others use too is not its own: "
        "memory.weigh(request, shared=[backend]); if it is meant, allow it: per_object_kb={}"
    ),
}


def memory_text(verdict: MemoryVerdict) -> str:
    """One verdict: what was measured, how, what grew; where it fails, why that matters and what to do."""
    headline = _HEADLINES.get((verdict.what, verdict.outcome), verdict.outcome.value.upper())
    head = f"{headline}  {_NAMES[verdict.what]} {size(verdict.what, verdict.value_bytes)}, limit {_limit(verdict)}"
    lines = [head, f"{verdict.reason}{_trend(verdict)}"]
    lines += _grown(verdict.lines)
    if verdict.outcome is Outcome.FAIL:
        lines.append(_ADVICE[verdict.what].format(_allowing(verdict)))
    elif verdict.outcome is Outcome.UNDECIDED and verdict.what is Held.GROWTH:
        lines.append("give it more time: --isolation-max-seconds=60")
    return "\n  ".join(lines)


def _trend(verdict: MemoryVerdict) -> str:
    if verdict.tau is None or not verdict.rounds:
        return ""
    process = (
        ""
        if verdict.resident_bytes is None
        else f"; process {size(verdict.what, verdict.resident_bytes)} per 1000 runs"
    )
    return f" (tau = {verdict.tau:.2f}, a trend above 0.6{process})"


def _grown(lines: Iterable[Allocation]) -> Iterator[str]:
    for line in lines:
        source = f": {line.source}" if line.source else ""
        grown = size(Held.GROWTH, line.per_thousand_bytes)
        yield f"grew by {grown} per 1000 runs, {line.blocks} blocks in all: {line.path}:{line.line}{source}"


def size(what: Held, value: float | None) -> str:
    """Bytes in the unit of a limit, with three digits that count."""
    if value is None:
        return "not measured"
    unit, factor = _UNITS[what]
    return f"{value / factor:.3g} {unit}"


def _limit(verdict: MemoryVerdict) -> str:
    return size(verdict.what, verdict.limit_bytes)


def _allowing(verdict: MemoryVerdict) -> str:
    """A limit that what was measured would keep, with a fifth to spare."""
    roomy = (verdict.value_bytes or 0) * 1.2 / _UNITS[verdict.what][1]
    return f"{roomy:.0f}" if roomy >= 10 else f"{roomy:.2g}"


def memory_table(results: Iterable[Result]) -> list[tuple[Outcome, str]]:
    """The table of all limits, a line each with the outcome that colours it; the heading comes first."""
    rows = [(verdict.outcome, _row(result, verdict)) for result in results for verdict in result.memory]
    if not rows:
        return []
    heading = ("test", "memory", "runs", "tau", "measured", "limit", "verdict")
    lines = aligned([heading, *(cells for _, cells in rows)])
    return list(zip([Outcome.PASS, *(outcome for outcome, _ in rows)], lines, strict=True))


def _row(result: Result, verdict: MemoryVerdict) -> tuple[str, ...]:
    return (
        result.nodeid.rpartition("::")[2],
        _NAMES[verdict.what],
        f"{verdict.runs:,}",
        "–" if verdict.tau is None else f"{verdict.tau:.2f}",
        size(verdict.what, verdict.value_bytes),
        f"≤ {_limit(verdict)}",
        verdict.outcome.value + _in_spite(verdict),
    )


def _in_spite(verdict: MemoryVerdict) -> str:
    """Why a limit is kept though what was measured is above it."""
    above = verdict.outcome is Outcome.PASS and (verdict.value_bytes or 0) > verdict.limit_bytes
    return ", no trend" if above else ""
