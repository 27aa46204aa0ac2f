"""All durations of one operation, counted into fixed bins: as many bytes for a year as for an hour.

Counts grow for ever, as Prometheus wants them. How an operation does *now* is what came since an earlier copy of them,
so that a night of quick operations does not hide a slow morning, and counting costs no more for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from math import ceil, inf, sqrt
from operator import sub

# Budgets and buckets that people ask for lie on an edge, so that counts at them are exact.
ROUND_S = tuple(digit * 10.0**power for power in range(-6, 3) for digit in (1, 1.5, 2, 2.5, 5, 7.5))
_STEP = 1.02  # the middle of a bin is within 1 % of everything in it
_LOWEST_S, _HIGHEST_S = 1e-7, 1e3

Tags = tuple[tuple[str, str], ...]


def _edges() -> tuple[float, ...]:
    edges, edge = set(ROUND_S), _LOWEST_S
    while edge < _HIGHEST_S:
        edges.add(edge)
        edge *= _STEP
    return tuple(sorted({*edges, _HIGHEST_S}))


EDGES_S = _edges()


class Series:
    """All durations of one operation with the same tags, in bins.

    Attributes:
        name: of the operation.
        tags: what tells it from others of the same name.
        sum_s: of all durations.
        errors: how many ended with an exception.
        cancelled: how many were cancelled, which is no error.
    """

    __slots__ = ("_before", "_bins", "_last", "_limit_s", "_over", "cancelled", "errors", "name", "sum_s", "tags")

    def __init__(self, name: str, tags: Tags = ()) -> None:
        self.name = name
        self.tags = tags
        self.sum_s = 0.0
        self.errors = self.cancelled = 0
        self._bins = [0] * (len(EDGES_S) + 1)
        self._before: list[int] | None = None
        self._last: list[int] | None = None
        self._limit_s = inf
        self._over: Callable[[Series, float], None] | None = None

    def add(self, seconds: float) -> None:
        """Count one operation.

        Args:
            seconds: how long it took, ≥ 0 and finite; it is not checked here, where every nanosecond counts.
        """
        self._bins[bisect_left(EDGES_S, seconds)] += 1
        self.sum_s += seconds
        if seconds > self._limit_s and self._over is not None:
            self._over(self, seconds)

    def is_over(self, seconds: float) -> bool:
        """Whether a duration is over the limit, and whoever watches was told so; it is not counted."""
        if seconds <= self._limit_s or self._over is None:
            return False
        self._over(self, seconds)
        return True

    def copy(self) -> Series:
        """What was counted until now, so that figures read from it agree with one another."""
        copy = Series(self.name, self.tags)
        # What ended badly before the bins: there is never more of it than of all.
        copy.errors, copy.cancelled = self.errors, self.cancelled
        copy._bins, copy.sum_s = self._bins.copy(), self.sum_s
        copy._before, copy._last = self._before, self._last
        return copy

    def rotate(self) -> None:
        """Begin a new window; what came before the last one counts no more for ``recent()``."""
        self._before, self._last = self._last, self._bins.copy()

    def recent(self) -> Series:
        """What was counted in this window and the one before, for quantiles; its sum and its errors are of all time."""
        recent = self.copy()
        if self._before is not None:
            recent._bins = list(map(sub, recent._bins, self._before))
        return recent

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self._bins)

    def quantile(self, q: float) -> float | None:
        """The q-quantile by nearest rank, true to 1 % between 100 ns and 1000 s; None without an operation.

        Args:
            q: 0 < q ≤ 1.

        Raises:
            ValueError: q is out of range.
        """
        if not 0 < q <= 1:
            raise ValueError(f"a quantile lies in (0, 1], not at {q!r}")
        counts = list(accumulate(self._bins))
        if not counts[-1]:
            return None
        index = bisect_left(counts, max(1, ceil(round(q * counts[-1], 9))))
        low = EDGES_S[index - 1] if index else _LOWEST_S
        high = EDGES_S[index] if index < len(EDGES_S) else _HIGHEST_S
        return sqrt(low * high)

    def counts_up_to(self, edges_s: Iterable[float]) -> list[int]:
        """How many took no longer than each of these; exact where it is one of ``EDGES_S``."""
        counts = list(accumulate(self._bins))
        return [counts[bisect_left(EDGES_S, edge_s)] for edge_s in edges_s]
