"""Numbers, nouns and notes as every report writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import isfinite


def duration(seconds: float) -> str:
    """Seconds in the unit that needs no zeros, with three digits that count."""
    factor, unit = unit_of(seconds)
    return f"{_digits(seconds * factor)} {unit}"


def unit_of(seconds: float) -> tuple[float, str]:
    """How many of the unit that needs no zeros make a second, and its name."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return factor, unit
    return 1e9, "ns"


def bounds(low: float, high: float) -> str:
    """An interval; a question mark for an end that is not known."""
    return f"{_digits(low) if isfinite(low) else '?'} … {_digits(high) if isfinite(high) else '?'}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share, with three digits that count."""
    return f"{share * 100:.3g} %"


def quantity(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is due."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def counted(notes: Iterable[str]) -> list[str]:
    """Each note once, with how often it was noted: several checks of one test note the same."""
    return [note if times == 1 else f"{note} ({times:,} times)" for note, times in Counter(notes).items()]


def printable(text: str) -> str:
    """A text that any terminal, file and connection takes: half a surrogate pair is shown as what it is."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
