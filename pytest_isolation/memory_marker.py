"""What ``@pytest.mark.memory`` asks for, and what is wrong with it, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pytest_isolation.errors import MarkerError
from pytest_isolation.marker_values import positive, unknown
from pytest_isolation.verdicts import MemoryBudget

if TYPE_CHECKING:
    import pytest

MEMORY_KEYWORDS: Mapping[str, tuple[str, str, int]] = {
    "growth_kb": ("growth_bytes", "kilobytes per 1000 runs", 1024),
    "peak_mb": ("peak_bytes", "megabytes", 1024**2),
    "per_object_kb": ("object_bytes", "kilobytes", 1024),
}
_SLOWS = "tracemalloc, which counts what is held, makes everything slower"
_KEEPS = "users keep what they saw, which would be counted as growth of the body"
_REFUSED = {
    "user": f"{_KEEPS}. Write the scenario as a function of an id, and call it: await scenario('user-1')",
    "users": f"{_KEEPS}. Write the scenario as a function of an id, and call it: await scenario('user-1')",
    "isolation": f"{_KEEPS}. Let users play it in a test of its own",
    "latency": f"{_SLOWS}, so nothing can be timed beside it, by a budget of the session either. Time it in a test of "
    "its own",
    "benchmark": f"{_SLOWS}, so nothing can be timed beside it. Time it in a test of its own",
}


def read_memory(marks: Iterable[pytest.Mark]) -> MemoryBudget | None:
    """The budget of all memory markers of a test, the closest winning for each keyword; None if there is none.

    Raises:
        MarkerError: one is misspelt or impossible.
    """
    limits: dict[str, float] = {}
    for mark in marks:
        if mark.args:
            raise MarkerError(
                f"memory({mark.args[0]!r}) does not say what is judged: memory(growth_kb={mark.args[0]!r})"
            )
        if not mark.kwargs:
            raise MarkerError("memory() asks for nothing: say what is allowed, as in memory(growth_kb=10)")
        for keyword, value in mark.kwargs.items():
            if keyword not in MEMORY_KEYWORDS:
                raise unknown("memory", keyword, MEMORY_KEYWORDS)
            name, unit, size = MEMORY_KEYWORDS[keyword]
            limits.setdefault(name, positive("memory", keyword, value, unit) * size)
    return MemoryBudget(**limits) if limits else None


def refuse_beside_memory(markers: Iterable[str], fixtures: Iterable[str]) -> None:
    """Refuse what cannot be judged together with memory.

    Args:
        markers: the other markers of ours that the test has.
        fixtures: those that it takes, of this plugin and of pytest-benchmark.

    Raises:
        MarkerError: it says why, and what to do instead.
    """
    for name in markers:
        raise MarkerError(f"memory(…) and {name}(…) cannot be judged in the same runs: {_REFUSED[name]}")
    for name in fixtures:
        if name in _REFUSED:
            raise MarkerError(f"memory(…) cannot be judged in a test that takes `{name}`: {_REFUSED[name]}")
