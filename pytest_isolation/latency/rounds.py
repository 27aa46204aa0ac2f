"""The rounds of pytest-benchmark as samples: a test that uses its fixture is judged on what that measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_isolation.errors import NothingMeasured
from pytest_isolation.latency.decide import Step
from pytest_isolation.latency.spans import Ledger


def benchmark_of(given: Mapping[str, Any]) -> Any | None:
    """pytest-benchmark's fixture among those that a test takes."""
    fixture = given.get("benchmark")
    return fixture if type(fixture).__module__.partition(".")[0] == "pytest_benchmark" else None


def take_rounds(benchmark: Any, ledger: Ledger) -> str:
    """Judge what was measured; a suspected failure is confirmed by the rounds that follow.

    Args:
        benchmark: the fixture, after the body has used it.
        ledger: where samples go.

    Returns:
        What a reader should know of them; empty if there is nothing.

    Raises:
        NothingMeasured: the fixture was not used, or it measures nothing in this session.
    """
    stats = getattr(benchmark, "stats", None)
    if stats is None:
        raise NothingMeasured(
            "the `benchmark` fixture measured nothing: it was not called, or pytest-benchmark is switched off "
            "(--benchmark-disable, --benchmark-skip, or -n of pytest-xdist)"
        )
    for seconds in stats.stats.data:
        ledger.add(seconds)
        if ledger.step is Step.CONFIRM:
            ledger.confirm()
    calls = stats.iterations
    return (
        f"a round of pytest-benchmark is the mean of {calls} calls here, and hides the slow ones" if calls > 1 else ""
    )
