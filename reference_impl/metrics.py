"""What operations cost: every one of them counted into fixed bins, a share of them kept in detail.

A sample of the durations would make every quantile wrong by its own error, and drawing it costs more than the counting
that it saves; so the bins see all. What is sampled is the detail: which tags, which error, when.

Threads: anything here may be called from any of them, and whatever is handed out is a copy, but for a ``Series``. What
one thread counts is exact. What several count is exact as long as CPython has its GIL, for no step that adds can be
interrupted there: operations, their sum, errors, cancellations, counters, what overflowed. Without the GIL two that add
at the very same moment may lose one. In no case exact, when several threads meet: ``most_series``, of which each thread
may make one too many, and ``Alert.suppressed``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager
from math import inf
from operator import attrgetter
from random import random
from threading import Lock
from time import monotonic, perf_counter, time
from types import TracebackType
from typing import Literal, NamedTuple, Self

from reference_impl.series import Series, Tags

Key = tuple[str, Tags]
Kind = Literal["operation", "counter", "gauge"]

# Where goes what came when there were too many tags, and then what came when there were too many names.
OVERFLOW_TAGS: Tags = (("overflow", "true"),)
OVERFLOW = "metrics.overflow"
_GONE = asyncio.CancelledError, GeneratorExit


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
        details: how many are kept, the latest; and as many errors and critical operations besides.
        most_series: how many different names and tags there may be, so that an id in a tag does not eat the memory.
            What comes after is counted under its name with the tag ``overflow="true"``; after as many names again, as
            ``metrics.overflow``. Counters have the same limit, and so have gauges, where the latest of all is left.
        window_s: quantiles are of the last one to two times so many seconds, if somebody looks that often.
    """

    def __init__(
        self,
        sample_rate: float = 0.1,
        *,
        details: int = 10_000,
        most_series: int = 1000,
        window_s: float = 300.0,
    ) -> None:
        if not 0 <= sample_rate <= 1:
            raise ValueError(f"sample_rate is a share from 0 to 1, not {sample_rate!r}")
        self._rate = sample_rate
        self._most = most_series
        self._window_s = window_s
        self._rotated_at = monotonic()
        self._rotating = Lock()
        self._plain: dict[str, Series] = {}
        self._tagged: dict[Key, Series] = {}
        self._counters: dict[Key, float] = {}
        self._gauges: dict[Key, float] = {}
        self._names: dict[tuple[Kind, str], None] = {}
        self._overflowed = 0  # counters and gauges; operations are counted by their series
        self._sampled: deque[Detail] = deque(maxlen=details)
        self._kept: deque[Detail] = deque(maxlen=details)
        self._spans: Callable[[str, Mapping[str, str]], AbstractContextManager[object]] | None = None
        self._hear: Callable[[str, float], None] | None = None
        self._watch: Callable[[Series], tuple[float, Callable[[Series, float], None]] | None] = lambda _series: None

    def timed_operation(self, name: str, tags: Mapping[str, str] | None = None, *, critical: bool = False) -> Timed:
        """Time a block: ``async with metrics.timed_operation("api.request", {"endpoint": "/chat"}):``.

        Args:
            name: of the operation.
            tags: what tells it from others; few values each, and never an id.
            critical: keep it in detail in any case.

        Raises:
            TypeError: the name, or a tag, is no text.
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
            seconds: how long it took, ≥ 0; a clock may well stand still.
            tags: what tells it from others.
            error: what it was ended by.
            critical: keep it in detail in any case.

        Raises:
            ValueError: the duration is negative, infinite or not a number.
            TypeError: the name, or a tag, is no text.
        """
        if not 0.0 <= seconds < inf:  # with 0 it takes longer
            raise ValueError(f"{name} took {seconds!r} s? A duration is a finite number ≥ 0")
        self._ended(self.series(name, tags), seconds, error, critical)

    def notice(
        self,
        name: str,
        seconds: float,
        tags: Mapping[str, str] | None = None,
        *,
        error: type[BaseException] | None = None,
    ) -> None:
        """Note an operation of which only a share is counted, and which was not drawn, if it failed or took too long.

        Its error counts, it is kept in detail, and whoever watches is called. It is not counted among the durations,
        of which it would be more than its share.

        Args:
            name: of the operation.
            seconds: how long it took.
            tags: what tells it from others.
            error: what it was ended by.
        """
        series = self.series(name, tags)
        if error is not None:
            self._failed(series, seconds, error)
        elif series.is_over(seconds):
            self._kept.append(Detail(series.name, series.tags, seconds, "", time()))

    def series(self, name: str, tags: Mapping[str, str] | None = None) -> Series:
        """Where an operation is counted; hold on to it where every nanosecond counts.

        Raises:
            TypeError: the name, or a tag, is no text.
        """
        try:
            return self._plain[name] if not tags else self._tagged[name, _key(tags)]
        except (AttributeError, KeyError, TypeError):
            pass  # it is new, or cannot even be looked for, and then the next line says why
        return self._new_series(name, _checked(name, tags))

    def count(self, name: str, by: float = 1, tags: Mapping[str, str] | None = None) -> None:
        """Count something that happened; a counter never falls.

        Raises:
            ValueError: ``by`` is negative, infinite or not a number.
            TypeError: the name, or a tag, is no text.
        """
        if by != 1 and not 0 <= by < inf:
            raise ValueError(f"the counter {name} cannot fall, nor rise without end: by is a number ≥ 0, not {by!r}")
        try:
            self._counters[name, _key(tags)] += by  # one step: a get() in it would let another thread in between
        except (AttributeError, KeyError, TypeError):
            pass  # as above
        else:
            return
        key = self._place("counter", self._counters, name, tags)
        self._counters.setdefault(key, 0)
        self._counters[key] += by

    def gauge(self, name: str, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Note how much there is of something now.

        Raises:
            TypeError: the value is no number; the name, or a tag, is no text.
        """
        try:
            value = float(value)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"the gauge {name} is a number, not {value!r}") from None
        try:
            known = (key := (name, _key(tags))) in self._gauges
        except (AttributeError, TypeError):
            known = False
        self._gauges[key if known else self._place("gauge", self._gauges, name, tags)] = value

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

    def listen(self, hear: Callable[[str, float], None] | None) -> None:
        """Tell somebody of every operation that is timed or recorded, by its name and in seconds.

        Args:
            hear: who is told instead of whoever was before; None tells nobody.
        """
        self._hear = hear

    def rotate(self, now_s: float | None = None) -> None:
        """Begin a new window if the last one is over; whoever shows quantiles asks for it first.

        Args:
            now_s: on the monotonic clock; None looks at it.
        """
        now_s = monotonic() if now_s is None else now_s
        with self._rotating:
            if now_s - self._rotated_at < self._window_s:
                return
            self._rotated_at = now_s
            for series in self:
                series.rotate()

    def __iter__(self) -> Iterator[Series]:
        return iter((*self._plain.copy().values(), *self._tagged.copy().values()))

    @property
    def counters(self) -> Mapping[Key, float]:
        """What happened how often, until now."""
        return self._counters.copy()

    @property
    def gauges(self) -> Mapping[Key, float]:
        """How much there is of what, now."""
        return self._gauges.copy()

    @property
    def names(self) -> tuple[tuple[Kind, str], ...]:
        """The names of all that is measured, in the order in which they came."""
        return tuple(self._names.copy())

    @property
    def overflowed(self) -> int:
        """How many operations, counts and values of gauges came when there were too many tags or names."""
        late = (series for series in self if series.tags == OVERFLOW_TAGS or series.name == OVERFLOW)
        return self._overflowed + sum(series.count for series in late)

    def details(self, name: str | None = None) -> list[Detail]:
        """What was kept in detail, the oldest first.

        Args:
            name: of this operation only.
        """
        details = (*self._sampled.copy(), *self._kept.copy())
        return sorted((each for each in details if name in (None, each.name)), key=attrgetter("at_s"))

    def _ended(self, series: Series, seconds: float, kind: type[BaseException] | None, critical: bool) -> None:
        series.add(seconds)
        if kind is None:
            if self._hear is not None:
                self._hear(series.name, seconds)
            if critical:
                self._kept.append(Detail(series.name, series.tags, seconds, "", time()))
            elif random() < self._rate:
                self._sampled.append(Detail(series.name, series.tags, seconds, "", time()))
        else:
            self._failed(series, seconds, kind)

    def _failed(self, series: Series, seconds: float, kind: type[BaseException]) -> None:
        if issubclass(kind, _GONE):
            series.cancelled += 1
        else:
            series.errors += 1
            self._kept.append(Detail(series.name, series.tags, seconds, kind.__name__, time()))

    def _new_series(self, name: str, tags: Tags) -> Series:
        name, tags = self._room(len(self._plain) + len(self._tagged), self._tagged, name, tags)
        series = self._tagged.get((name, tags)) if tags else self._plain.get(name)
        if series is None:
            self._names.setdefault(("operation", name))
            # Another thread may make the same one: both get the one that is there first.
            new = Series(name, tags)
            series = self._tagged.setdefault((name, tags), new) if tags else self._plain.setdefault(name, new)
            self._look_out(series)
        return series

    def _place(self, kind: Kind, table: Mapping[Key, float], name: str, tags: Mapping[str, str] | None) -> Key:
        key = name, _checked(name, tags)
        place = self._room(len(table), table, *key)
        if place != key:
            self._overflowed += 1
        self._names.setdefault((kind, place[0]))
        return place

    def _room(self, many: int, taken: Container[Key], name: str, tags: Tags) -> Key:
        """Where something new is counted, of which there are so many already."""
        if many < self._most:
            return name, tags
        if many < 2 * self._most or (name, OVERFLOW_TAGS) in taken:
            return name, OVERFLOW_TAGS
        return OVERFLOW, ()

    def _look_out(self, series: Series) -> None:
        chosen = self._watch(series)
        series._limit_s, series._over = chosen if chosen is not None else (inf, None)


def _key(tags: Mapping[str, str] | None) -> Tags:
    if not tags:
        return ()
    if len(tags) == 1:
        return tuple(tags.items())
    return tuple(sorted(tags.items()))


def _checked(name: object, tags: object) -> Tags:
    """The tags of something new, if all of it is text.

    Raises:
        TypeError: it is not, and would end every scrape from now on.
    """
    if not isinstance(name, str):
        raise TypeError(f'the name of what is measured is {name!r}; a name is a text, such as "api.request"')
    if not tags:
        return ()
    if not isinstance(tags, dict) and not isinstance(tags, Mapping):  # the first is quick
        raise TypeError(f'the tags of {name!r} are {tags!r}; tags are a mapping of texts, such as {{"kind": "slow"}}')
    for key, value in tags.items():
        if not isinstance(key, str):
            raise TypeError(f"{key!r} cannot name a tag of {name!r}; a name is a text, such as {str(key)!r}")
        if not isinstance(value, str):
            right = {key: str(value)}
            raise TypeError(f"the tag {key!r} of {name!r} is {value!r}; a tag is a text, such as {right!r}")
    return _key(tags)
