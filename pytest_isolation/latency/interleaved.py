"""Compares a body with its older version in another process, by batches of runs in turn.

One process waits while the other one runs. After the change of turns caches are cold, so the first runs of a batch
count for nothing; the medians of two batches that follow each other make a pair (``paired``).
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter, sleep
from typing import NamedTuple, Protocol

from pytest_isolation.latency.paired import Pairs, turns
from pytest_isolation.latency.sampler import in_own_task, nth_run, take
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.verdicts import Comparison

_WARM_UP = 10
_MOST_RUNS = 20
_BATCH_S = 0.02
_MOST_PAIRS = 200
# What two processes differ by anyway, whatever they run.
_FLOOR_S = 0.5e-6
# Of two processes with the same code one may well be some percent slower throughout: where things lie in memory.
TOLERANCE = 0.1

# Whoever is slower must be so again after a pause: of two processes one may have had the busier core for a while.
_PAUSE_S = 0.5

# What a batch took in seconds, without what the machine added: by span, where "" is the body.
Measured = Mapping[str, Sequence[float]]


class Batch(NamedTuple):
    """So many runs that count, after so many that do not."""

    lead: int
    runs: int


class Incomparable(Exception):
    """The older version cannot run this test; the text says why."""


class Old(Protocol):
    """The older version of all tests."""

    @property
    def name(self) -> str:
        """What to call it."""

    def begin(self, nodeid: str) -> None:
        """Have it set up a test.

        Raises:
            Incomparable: it has no such test.
        """

    def measure(self, batch: Batch) -> Measured:
        """Have it run a batch of the test, and wait until it has.

        Raises:
            Incomparable: it cannot.
        """

    def end(self) -> None:
        """Have it tear the test down."""


class Server(Protocol):
    """Where the older version is told what to run."""

    def asked(self) -> Batch:
        """Wait for the next batch; it raises what ends the test when there is none."""

    def answer(self, measured: Measured) -> None:
        """Tell what came of it."""


def _course(pairs: Mapping[str, Pairs], seconds: float) -> Generator[tuple[bool, Batch], Measured, None]:
    """Whose turn it is (the new one's?) and what to run; it is sent what was measured."""
    slowest_s, was_slower = 0.0, False
    for is_new in (True, False):
        begun = perf_counter()
        yield is_new, Batch(_WARM_UP, 1)
        slowest_s = max(slowest_s, (perf_counter() - begun) / (_WARM_UP + 1))
    runs = min(_MOST_RUNS, max(1, round(_BATCH_S / slowest_s)))
    batch = Batch(2 if runs > 2 else 1, runs)
    deadline = perf_counter() + seconds
    for new_first in turns(_MOST_PAIRS):
        first = yield new_first, batch
        second = yield not new_first, batch
        old, new = (second, first) if new_first else (first, second)
        for span, its_pairs in pairs.items():
            if old.get(span) and new.get(span):
                old_s, new_s = median(old[span]), median(new[span])
                its_pairs.add(old_s, new_s if abs(new_s - old_s) > _FLOOR_S else old_s)
        if perf_counter() > deadline:
            return
        if all(its_pairs.is_slower for its_pairs in pairs.values()):
            if was_slower:
                return
            was_slower = True
            sleep(_PAUSE_S)
            for its_pairs in pairs.values():
                its_pairs.begin_again()


class Interleaved:
    """One test, compared with its older version until all of it is proven slower, or time is up.

    Args:
        old: the older version.
        ledger: where the spans of this one write; what was in it is lost.
        spans: what is compared; None is the body.
        seconds: how long at most.

    Attributes:
        comparisons: one for each span.
        note: why there are none.
    """

    def __init__(self, old: Old, ledger: Ledger, spans: Iterable[str | None], seconds: float) -> None:
        self.comparisons: list[Comparison] = []
        self.note = ""
        self._old = old
        self._ledger = ledger
        self._pairs = {span or "": Pairs(TOLERANCE) for span in spans}
        self._seconds = seconds

    async def compare_async(self, nodeid: str, body: Callable[[], Awaitable[object]]) -> None:
        """Compare an asynchronous body, which runs in this process."""
        with self._under_way(nodeid):
            self._old.begin(nodeid)
            course = _course(self._pairs, self._seconds)
            is_new, batch = next(course)
            while True:
                measured = await run_async(body, self._ledger, batch) if is_new else self._old.measure(batch)
                try:
                    is_new, batch = course.send(measured)
                except StopIteration:
                    return

    def compare_sync(self, nodeid: str, body: Callable[[], object]) -> None:
        """The same for a body that is not async."""
        with self._under_way(nodeid):
            self._old.begin(nodeid)
            course = _course(self._pairs, self._seconds)
            is_new, batch = next(course)
            while True:
                measured = run_sync(body, self._ledger, batch) if is_new else self._old.measure(batch)
                try:
                    is_new, batch = course.send(measured)
                except StopIteration:
                    return

    @contextmanager
    def _under_way(self, nodeid: str) -> Iterator[None]:
        try:
            yield
        except Incomparable as error:
            self.note = f"not compared with {self._old.name}: {error}"
        finally:
            self._ledger.clear()
            self._ledger.measured.clear()
            self._old.end()
            name = nodeid.rpartition("::")[2]
            self.comparisons += [
                pairs.comparison(f"{name}{f' [{span}]' if span else ''} since {self._old.name}")
                for span, pairs in self._pairs.items()
                if len(pairs)
            ]


async def run_async(body: Callable[[], Awaitable[object]], ledger: Ledger, batch: Batch) -> Measured:
    """Run a batch of an asynchronous body, each run in a task of its own."""

    async def run() -> None:
        mark, begun = ledger.clock.start(), perf_counter()
        value = await body()
        seconds = perf_counter() - begun
        take(ledger, value, seconds, ledger.clock.lost_s(mark, seconds))

    for number in range(sum(batch)):
        if number == batch.lead:
            ledger.clear()
        with nth_run(number):
            await in_own_task(run)
        _refuse_parts(ledger)
    return ledger.net()


def run_sync(body: Callable[[], object], ledger: Ledger, batch: Batch) -> Measured:
    """Run a batch of a body that is not async, each run in a copy of the Context."""

    def run() -> None:
        mark, begun = ledger.clock.start(), perf_counter()
        value = body()
        seconds = perf_counter() - begun
        take(ledger, value, seconds, ledger.clock.lost_s(mark, seconds))

    for number in range(sum(batch)):
        if number == batch.lead:
            ledger.clear()
        with nth_run(number):
            contextvars.copy_context().run(run)
        _refuse_parts(ledger)
    return ledger.net()


def _refuse_parts(ledger: Ledger) -> None:
    if ledger.measured:
        raise Incomparable("it samples a part of itself with latency.measure(); only whole bodies are compared")


async def serve_async(body: Callable[[], Awaitable[object]], ledger: Ledger, server: Server) -> None:
    """Be the older version of an asynchronous body, until there is nothing more to run."""
    while True:
        server.answer(await run_async(body, ledger, server.asked()))


def serve_sync(body: Callable[[], object], ledger: Ledger, server: Server) -> None:
    """The same for a body that is not async."""
    while True:
        server.answer(run_sync(body, ledger, server.asked()))
