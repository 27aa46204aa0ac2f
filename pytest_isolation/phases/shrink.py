"""A list of decisions that fails → the shortest one found that fails in the same way. Pure: whoever calls plays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

_TRIES = 400


def shrink(values: Sequence[int], fails: Callable[[Sequence[int]], bool], tries: int = _TRIES) -> list[int]:
    """Look for the fewest deviations, then the smallest ones, that still fail.

    Args:
        values: decisions that fail; 0 is what asyncio would have done.
        fails: plays other ones, and says whether they fail in the same way.
        tries: how often it may be asked.

    Returns:
        Decisions that fail, without zeros at their end.
    """
    best, seen = stripped(values), {tuple(stripped(values))}
    progress = True
    while progress:
        progress = False
        for shorter in _simpler(best):
            candidate = stripped(shorter)
            if tuple(candidate) in seen or weight(candidate) >= weight(best):
                continue
            if len(seen) > tries:
                return best
            seen.add(tuple(candidate))
            if fails(candidate):
                best, progress = candidate, True
                break
    return best


def weight(values: Sequence[int]) -> tuple[int, int, int]:
    """How far decisions are from what asyncio would do: deviations first."""
    return sum(map(bool, values)), sum(values), len(values)


def stripped(values: Sequence[int]) -> list[int]:
    """Without the zeros at the end, which say nothing."""
    last = max((position for position, value in enumerate(values) if value), default=-1)
    return [*values[: last + 1]]


def _simpler(values: Sequence[int]) -> Iterator[list[int]]:
    """Cut the end off, undo deviations in blocks, leave decisions out, take smaller ones."""
    length = len(values)
    for half in range(length.bit_length()):
        yield [*values[: length >> (half + 1)]] if half == 0 else [*values[: length - (length >> (half + 1))]]
    size = max(1, length // 2)
    while size:
        for start in range(0, length, size):
            yield [*values[:start], *[0] * len(values[start : start + size]), *values[start + size :]]
        size //= 2
    for size in (8, 4, 2, 1):
        for start in range(length):
            yield [*values[:start], *values[start + size :]]
    for position, value in enumerate(values):
        for smaller in sorted({1, value // 2, value - 1} - {0, value}):
            if 0 < smaller < value:
                yield [*values[:position], smaller, *values[position + 1 :]]
