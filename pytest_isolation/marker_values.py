"""Values and spellings of a marker's keywords, alike for every marker."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from pytest_isolation.errors import MarkerError

if TYPE_CHECKING:
    import pytest


def positive(marker: str, keyword: str, value: Any, unit: str) -> float:
    """The value of a keyword that takes a number of a unit.

    Raises:
        MarkerError: it is none, or not above 0.
    """
    try:
        number = 0.0 if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        number = inf
    if not (isfinite(number) and number > 0):
        shown = repr(value) if isinstance(value, float) else f"{value!r:.40}"
        raise MarkerError(f"{marker}({keyword}={shown}): it takes a number > 0 of {unit}, as in {keyword}=10")
    return number


def unknown(marker: str, keyword: str, known: Iterable[str]) -> MarkerError:
    """What to raise for a keyword that a marker does not know; it names the nearest that it does."""
    spellings = list(known)
    # p95 and p95_s mean p95_ms.
    close = get_close_matches(keyword, spellings, n=1, cutoff=0.5) or get_close_matches(f"{keyword}_ms", spellings, n=1)
    nearest = f"; did you mean {close[0]!r}?" if close else "."
    return MarkerError(f"{marker}({keyword}=…): there is no such keyword{nearest} It knows {', '.join(spellings)}")


def spelt(mark: pytest.Mark) -> str:
    """The arguments of a marker as they were written."""
    return ", ".join(f"{keyword}={value!r}" for keyword, value in mark.kwargs.items())
