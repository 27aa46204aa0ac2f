"""Latencies in bounded memory: every one of them kept up to a number, in bins of 1 % from there on."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from math import inf, isfinite, log
from typing import overload

from pytest_isolation.latency.quantile import SHOWN, least_samples, nearest_rank, quantile_bounds
from pytest_isolation.verdicts import Estimate

EXACT = 100_000
_LOWEST_S = 1e-7
_STEP = 1.02  # the middle of a bin is within 1 % of everything in it


class Samples:
    """Latencies of one kind.

    Args:
        exact: how many are kept as they are.

    Attributes:
        longest_s: of those that were answered; 0 without any.
    """

    __slots__ = ("_bins", "_exact", "_kept", "longest_s")

    def __init__(self, exact: int = EXACT) -> None:
        self._exact = exact
        self._kept = array("d")
        self._bins: Counter[float] = Counter()
        self.longest_s = 0.0

    def add(self, seconds: float) -> None:
        """Take a latency; infinite is one that never came to an answer."""
        if isfinite(seconds):
            self.longest_s = max(self.longest_s, seconds)
        if self._bins:
            self._bins[_bin(seconds)] += 1
            return
        self._kept.append(seconds)
        if len(self._kept) > self._exact:
            self._bins.update(map(_bin, self._kept))
            self._kept = array("d")

    def __len__(self) -> int:
        return len(self._kept) + self._bins.total()

    @property
    def is_exact(self) -> bool:
        """Every latency is still there as it was."""
        return not self._bins

    @property
    def ordered(self) -> Sequence[float]:
        """All of them, ascending."""
        return _Ranks(self._bins) if self._bins else sorted(self._kept)

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """p50, p95 and p99, each only where there are enough samples for it to mean something."""
        ordered = self.ordered
        return tuple(
            Estimate(q, nearest_rank(ordered, q), quantile_bounds(ordered, q))
            for q in SHOWN
            if len(ordered) >= least_samples(q)
        )


def _bin(seconds: float) -> float:
    return inf if seconds == inf else log(max(seconds, _LOWEST_S) / _LOWEST_S) // log(_STEP)


class _Ranks(Sequence[float]):
    """Bins, looked at as the sorted list that they stand for."""

    def __init__(self, bins: Counter[float]) -> None:
        numbers = sorted(bins)
        self._middles = [inf if number == inf else _LOWEST_S * _STEP ** (number + 0.5) for number in numbers]
        self._ends = list(accumulate(bins[number] for number in numbers))

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, rank: int) -> float: ...
    @overload
    def __getitem__(self, rank: slice) -> Sequence[float]: ...
    def __getitem__(self, rank: int | slice) -> float | Sequence[float]:
        if isinstance(rank, slice):
            return [self[place] for place in range(*rank.indices(len(self)))]
        place = rank + len(self) if rank < 0 else rank
        if not 0 <= place < len(self):
            raise IndexError(rank)
        return self._middles[bisect_right(self._ends, place)]
