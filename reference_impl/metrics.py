"""What operations cost: every one of them counted into fixed bins, a share of them kept in detail.

A sample of the durations would make every quantile wrong by its own error, and drawing it costs more than the counting
that it saves; so the bins see all. What is sampled is the detail: which tags, which error, when.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import accumulate
from math import ceil, inf, sqrt
from random import random
from time import perf_counter, time
from types import TracebackType
from typing import NamedTuple, Self

# Budgets and buckets that people ask for lie on an edge, so that counts at them are exact.
ROUND_S = tuple(digit * 10.0**power for power in range(-6, 3) for digit in (1, 1.5, 2, 2.5, 5, 7.5))
_STEP = 1.02  # the middle of a bin is within 1 % of everything in it
_LOWEST_S, _HIGHEST_S = 1e-7, 1e3
OVERFLOW = "metrics.overflow"

Tags = tuple[tuple[str, str], ...]


def _edges() -> tuple[float, ...]:
    edges, edge = set(ROUND_S), _LOWEST_S
    while edge < _HIGHEST_S:
        edges.add(edge)
        edge *= _STEP
    return tuple(sorted({*edges, _HIGHEST_S}))


EDGES_S = _edges()


class Detail(NamedTuple):
    """One operation that was kept in detail.

    Attributes:
        name: of the operation.
        tags: what it was called with.
        seconds: how long it took.
        error: the name of the exception's type; empty if there was none.
        at_s: when it ended, seconds since the epoch.
    """

    name: str
    tags: Tags
    seconds: float
    error: str
    at_s: float


class Series:
    """All durations of one operation with the same tags, in bins.

    Counting is exact in the thread of the event loop. Two threads that count at the very same moment may lose one.

    Attributes:
        name: of the operation.
        tags: what tells it from others of the same name.
        sum_s: of all durations.
        errors: how many ended with an exception.
        cancelled: how many were cancelled, which is no error.
    """

    __slots__ = ("_bins", "_limit_s", "_over", "cancelled", "errors", "name", "sum_s", "tags")

    def __init__(self, name: str, tags: Tags = ()) -> None:
        self.name = name
        self.tags = tags
        self.sum_s = 0.0
        self.errors = self.cancelled = 0
        self._bins = [0] * (len(EDGES_S) + 1)
        self._limit_s = inf
        self._over: Callable[[Series, float], None] | None = None

    def add(self, seconds: float) -> None:
        """Count one operation.

        Args:
            seconds: how long it took.
        """
        self._bins[bisect_left(EDGES_S, seconds)] += 1
        self.sum_s += seconds
        if seconds > self._limit_s and self._over is not None:
            self._over(self, seconds)

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
        rank, seen = ceil(round(q * self.count, 9)), 0
        for index, many in enumerate(self._bins):
            seen += many
            if many and seen >= rank:
                low = EDGES_S[index - 1] if index else _LOWEST_S
                high = EDGES_S[index] if index < len(EDGES_S) else _HIGHEST_S
                return sqrt(low * high)
        return None

    def counts_up_to(self, edges_s: Iterable[float]) -> list[int]:
        """How many took no longer than each of these; exact where it is one of ``EDGES_S``."""
        counts = list(accumulate(self._bins))
        return [counts[bisect_left(EDGES_S, edge_s)] for edge_s in edges_s]


class Timed:
    """Times a block, with ``with`` or ``async with``; what the block raises passes through."""

    __slots__ = ("_begun", "_critical", "_metrics", "_series", "_span")

    def __init__(self, metrics: Metrics, series: Series, critical: bool) -> None:
        self._metrics = metrics
        self._series = series
        self._critical = critical
        self._span: AbstractContextManager[object] | None = None

    def __enter__(self) -> Self:
        if self._metrics._spans is not None:
            self._span = self._metrics._spans(self._series.name, dict(self._series.tags))
            self._span.__enter__()
        self._begun = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._metrics._ended(self._series, perf_counter() - self._begun, kind, self._critical)
        if self._span is not None:
            self._span.__exit__(kind, error, where)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, where)


class Metrics:
    """The measurements of one backend.

    Args:
        sample_rate: share of ordinary operations that are kept in detail; errors and critical ones always are.
        details: how many are kept, the latest.
        most_series: how many different names and tags there may be; what comes after goes to ``metrics.overflow``, so
            that an id in a tag does not eat the memory.
    """

    def __init__(self, sample_rate: float = 0.1, *, details: int = 10_000, most_series: int = 1000) -> None:
        if not 0 <= sample_rate <= 1:
            raise ValueError(f"sample_rate is a share from 0 to 1, not {sample_rate!r}")
        self._rate = sample_rate
        self._most = most_series
        self._plain: dict[str, Series] = {}
        self._tagged: dict[tuple[str, Tags], Series] = {}
        self._counters: dict[tuple[str, Tags], float] = {}
        self._gauges: dict[tuple[str, Tags], float] = {}
        self._details: deque[Detail] = deque(maxlen=details)
        self._spans: Callable[[str, Mapping[str, str]], AbstractContextManager[object]] | None = None
        self._watch: Callable[[Series], tuple[float, Callable[[Series, float], None]] | None] = lambda _series: None

    def timed_operation(self, name: str, tags: Mapping[str, str] | None = None, *, critical: bool = False) -> Timed:
        """Time a block: ``async with metrics.timed_operation("api.request", {"endpoint": "/chat"}):``.

        Args:
            name: of the operation.
            tags: what tells it from others; few values each, and never an id.
            critical: keep it in detail in any case.
        """
        return Timed(self, self.series(name, tags), critical)

    def record(
        self,
        name: str,
        seconds: float,
        tags: Mapping[str, str] | None = None,
        *,
        error: type[BaseException] | None = None,
        critical: bool = False,
    ) -> None:
        """Count an operation that was timed elsewhere.

        Args:
            name: of the operation.
            seconds: how long it took, ≥ 0.
            tags: what tells it from others.
            error: what it was ended by.
            critical: keep it in detail in any case.

        Raises:
            ValueError: the duration is negative or not a number.
        """
        if not seconds >= 0:
            raise ValueError(f"{name} took {seconds!r} s? A duration is a number ≥ 0")
        self._ended(self.series(name, tags), seconds, error, critical)

    def series(self, name: str, tags: Mapping[str, str] | None = None) -> Series:
        """Where an operation is counted; hold on to it where every nanosecond counts."""
        found = self._plain.get(name) if not tags else self._tagged.get((name, _key(tags)))
        return found or self._new_series(name, _key(tags))

    def count(self, name: str, by: float = 1, tags: Mapping[str, str] | None = None) -> None:
        """Count something that happened; a counter never falls.

        Raises:
            ValueError: ``by`` is negative.
        """
        if by < 0:
            raise ValueError(f"the counter {name} cannot fall by {-by}")
        key = self._bounded(self._counters, name, tags)
        self._counters[key] = self._counters.get(key, 0) + by

    def gauge(self, name: str, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Note how much there is of something now."""
        self._gauges[self._bounded(self._gauges, name, tags)] = value

    def watch(self, choose: Callable[[Series], tuple[float, Callable[[Series, float], None]] | None]) -> None:
        """Be called for every operation that takes longer than a limit.

        Args:
            choose: the limit in seconds and what to call, for one series; None leaves it alone.
        """
        self._watch = choose
        for series in self:
            self._look_out(series)

    def trace(self, span: Callable[[str, Mapping[str, str]], AbstractContextManager[object]]) -> None:
        """Put a span around every timed block.

        Args:
            span: makes one, from the name and the tags of the operation.
        """
        self._spans = span

    def __iter__(self) -> Iterator[Series]:
        yield from list(self._plain.values())
        yield from list(self._tagged.values())

    @property
    def counters(self) -> Mapping[tuple[str, Tags], float]:
        """What happened how often."""
        return self._counters

    @property
    def gauges(self) -> Mapping[tuple[str, Tags], float]:
        """How much there is of what."""
        return self._gauges

    def details(self, name: str | None = None) -> list[Detail]:
        """What was kept in detail, the oldest first.

        Args:
            name: of this operation only.
        """
        return [detail for detail in self._details if name in (None, detail.name)]

    def _ended(self, series: Series, seconds: float, kind: type[BaseException] | None, critical: bool) -> None:
        series.add(seconds)
        if kind is None:
            if critical or random() < self._rate:
                self._details.append(Detail(series.name, series.tags, seconds, "", time()))
        elif issubclass(kind, asyncio.CancelledError | GeneratorExit):
            series.cancelled += 1
        else:
            series.errors += 1
            self._details.append(Detail(series.name, series.tags, seconds, kind.__name__, time()))

    def _new_series(self, name: str, tags: Tags) -> Series:
        if len(self._plain) + len(self._tagged) >= self._most:
            name, tags = OVERFLOW, ()
            if name in self._plain:
                return self._plain[name]
        series = Series(name, tags)
        if tags:
            self._tagged[name, tags] = series
        else:
            self._plain[name] = series
        self._look_out(series)
        return series

    def _bounded(
        self, table: Mapping[tuple[str, Tags], float], name: str, tags: Mapping[str, str] | None
    ) -> tuple[str, Tags]:
        key = name, _key(tags)
        return key if key in table or len(table) < self._most else (OVERFLOW, ())

    def _look_out(self, series: Series) -> None:
        chosen = self._watch(series)
        series._limit_s, series._over = chosen if chosen is not None else (inf, None)


def _key(tags: Mapping[str, str] | None) -> Tags:
    if not tags:
        return ()
    if len(tags) == 1:
        return tuple(tags.items())
    return tuple(sorted(tags.items()))
