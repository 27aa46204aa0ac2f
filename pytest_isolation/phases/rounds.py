"""Rounds of runs of a body, and the memory that is held after each: what to do next, for shells that know a loop.

The one who looks must not grow itself: readings go into arrays that are there beforehand, and nothing is made for a
round that outlives it. ``tracemalloc`` counts what Python allocates from the first round on, with a single frame each.
"""

from __future__ import annotations

import gc
import logging
import os
import tracemalloc
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from linecache import getline
from pathlib import Path
from statistics import median
from time import perf_counter

from pytest_isolation.errors import NothingMeasured
from pytest_isolation.resident import resident_bytes
from pytest_isolation.verdicts import Allocation

# Rounds are planned for this share of the time, so that a body that becomes slower does not lose the last ones; for the
# sake of as many as it takes, so many times the time may pass.
_PLANNED, _PATIENCE = 0.7, 2.0
_TRIED, _TRYING = 20, 0.1
# What all rounds together may keep, as far as the first runs tell: a leak is no reason to die.
_MOST_BYTES = 128 * 1024**2
_COLLECTIONS = 3  # what a finaliser lets go is garbage only after the next
_LINES = 5
_WORD_S = 0.5
_PLUGIN = Path(__file__).parents[1]
_TESTS = _PLUGIN / "conformance"


class Do(Enum):
    """What a shell does next."""

    RUN = auto()
    SETTLE = auto()


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """How far a body is run.

    Attributes:
        seconds: no new round after this time, until growth is suspected.
        rounds: how many are judged first.
        least: so many are made if they take no more than twice the time.
        runs: of each round; fewer where so many would take too long.
        warm_up: rounds before the first that is judged.
        extensions: where growth is suspected, go on to so many times the rounds, and look again after each.
    """

    seconds: float = 1.0
    rounds: int = 12
    least: int = 8
    runs: int = 500
    warm_up: int = 3
    extensions: tuple[int, ...] = (2, 4)


class Rounds:
    """What is held after each round, and the peak.

    Args:
        plan: how far to go.
        suspects: whether readings, each after so many runs, are a reason to go on; of an extension it is given all.
        tell: is told how it goes; None tells nobody.

    Attributes:
        runs: how many each round has; 0 until that is known.
        ended: how many runs have ended, those of the warm-up included.
        extended: so many times the planned rounds were made, because growth was suspected.
        suspected: growth was suspected each time that was asked, until now.
        peak_bytes: the most that was held above the start; what was needed to name lines is not in it.
        lines: what grew while it was extended, the most first.
    """

    def __init__(
        self,
        plan: RoundPlan,
        suspects: Callable[[Sequence[int], int, bool], bool],
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.runs = self.ended = self.peak_bytes = 0
        self.extended = 1
        self.suspected = False
        self.lines: tuple[Allocation, ...] = ()
        self._plan = plan
        self._suspects = suspects
        self._tell = tell
        capacity = plan.rounds * max((1, *plan.extensions))
        self._held, self._resident = array("q", bytes(8 * capacity)), array("q", bytes(8 * capacity))
        self._taken = self._floor = 0
        self._began = perf_counter()
        self._next_word = self._began + 2 * _WORD_S

    @property
    def held(self) -> Sequence[int]:
        """Bytes that Python held above the start, after each round."""
        return self._held[: self._taken]

    @property
    def resident(self) -> Sequence[int]:
        """Bytes that the process held, after each round; 0 where the system does not tell."""
        return self._resident[: self._taken]

    def course(self) -> Iterator[Do]:
        """What to do with one run after another; the caller does it before it asks again."""
        plan = self._plan
        deadline = perf_counter() + plan.seconds
        yield from self._size()
        for _ in range(plan.warm_up):
            if perf_counter() < deadline:
                yield from self._round()
        for number in range(plan.rounds):
            late_s = perf_counter() - deadline
            if late_s > 0 and (number >= plan.least or late_s > plan.seconds * (_PATIENCE - 1)):
                break
            yield from self._round()
            self._read()
        self.suspected = self._suspects(self.held, self.runs, False)
        if self.suspected:
            yield from self._extend()

    def peaks(self, runs: int) -> Iterator[Do]:
        """The same where only the peak is asked for: so many runs, as far as the time lasts."""
        deadline = perf_counter() + self._plan.seconds
        self.runs = 1
        while self.ended < runs and (not self.ended or perf_counter() < deadline):
            yield from self._round()

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Count what is allocated in the block; somebody else's tracing goes on after it."""
        was_tracing = tracemalloc.is_tracing()
        gc.collect()
        # The collector need not look at what was there before at every round: that would take longer than the runs.
        # What somebody else has frozen cannot be told from our own, so then nothing is.
        if freezes := not gc.get_freeze_count():
            gc.freeze()
        if not was_tracing:
            tracemalloc.start(1)
        try:
            with _warnings_unheard():
                tracemalloc.reset_peak()
                self._floor = tracemalloc.get_traced_memory()[0]
                yield
        finally:
            if not was_tracing:
                tracemalloc.stop()
            if freezes:
                gc.unfreeze()

    def _size(self) -> Iterator[Do]:
        """Find out how many runs a round can have."""
        plan, begun = self._plan, perf_counter()
        steps = array("q", bytes(8 * _TRIED))
        while self.ended < min(_TRIED, plan.runs):
            if self.ended and perf_counter() - begun > plan.seconds * _TRYING:
                break
            yield Do.RUN
            steps[self.ended] = tracemalloc.get_traced_memory()[0] - self._floor
            self.ended += 1
        run_s = (perf_counter() - begun) / self.ended
        yield from self._settle()
        collecting = perf_counter()
        _collect()
        collect_s = perf_counter() - collecting
        # Where collecting takes long, the runs may take as long as that: less of them would tell little.
        each_s = max(collect_s, plan.seconds * _PLANNED / (plan.rounds + plan.warm_up) - collect_s)
        # What comes once, such as an import, is not in the median; what the collector takes is not in the mean.
        mean = (tracemalloc.get_traced_memory()[0] - self._floor) / self.ended
        grown = [after - before for before, after in pairwise(steps[: self.ended])]
        most = _MOST_BYTES / (plan.warm_up + len(self._held)) / max(1.0, min(mean, median(grown or [mean])))
        self.runs = max(1, min(plan.runs, int(each_s / run_s), int(most)))

    def _round(self) -> Iterator[Do]:
        for _ in range(self.runs):
            yield Do.RUN
            self.ended += 1
        yield from self._settle()
        if self._tell is not None and perf_counter() > self._next_word:
            self._next_word = perf_counter() + _WORD_S
            again = ", growth is suspected" if self.suspected else ""
            self._tell(f"memory: {self.ended:,} runs{again}")

    def _settle(self) -> Iterator[Do]:
        yield Do.SETTLE
        _forget_logs()
        if not tracemalloc.is_tracing():
            raise NothingMeasured("the body switched tracemalloc off, which counts what it holds: take that out of it")
        if not self.lines and not self.suspected:
            self.peak_bytes = max(self.peak_bytes, tracemalloc.get_traced_memory()[1] - self._floor)

    def _read(self) -> None:
        _collect()
        self._held[self._taken] = tracemalloc.get_traced_memory()[0] - self._floor
        self._resident[self._taken] = resident_bytes(os.getpid()) or 0
        self._taken += 1

    def _extend(self) -> Iterator[Do]:
        """Go on, and look again: what has filled up meanwhile is a cache that has a bound."""
        before, first = tracemalloc.take_snapshot(), self.ended
        for factor in self._plan.extensions:
            while self._taken < factor * self._plan.rounds:
                yield from self._round()
                self._read()
            self.extended = factor
            self.suspected = self._suspects(self.held, self.runs, True)
            if not self.suspected:
                return
        self.lines = grown_lines(before, tracemalloc.take_snapshot(), self.ended - first)


@contextmanager
def _warnings_unheard() -> Iterator[None]:
    """Let nobody take down the warnings of runs: pytest keeps each, and those of the first run are there already."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda *_args, **_more: None
        yield


def _forget_logs() -> None:
    """Let pytest forget what was logged: it keeps every record of a test, which would be growth of the body."""
    for handler in logging.getLogger().handlers:
        clear = getattr(handler, "clear", None)
        if clear is not None and type(handler).__module__.startswith("_pytest."):
            clear()


def _collect() -> None:
    for _ in range(_COLLECTIONS):
        if not gc.collect():
            return


def grown_lines(before: tracemalloc.Snapshot, after: tracemalloc.Snapshot, runs: int) -> tuple[Allocation, ...]:
    """The lines whose allocations grew most, without those of this plugin and of ``tracemalloc``.

    Args:
        before: what was held.
        after: what is held.
        runs: how many there were in between.
    """
    grown = (
        Allocation(_shown(path), line, getline(path, line).strip(), stat.size_diff * 1000 / runs, stat.count_diff)
        for stat in after.compare_to(before, "lineno")
        for path, line in [(stat.traceback[0].filename, stat.traceback[0].lineno)]
        if stat.size_diff > 0 and not _is_ours(path)
    )
    return tuple(sorted(grown, key=lambda one: -one.per_thousand_bytes)[:_LINES])


def _is_ours(name: str) -> bool:
    path = Path(name)
    return name in (tracemalloc.__file__, "<unknown>") or (
        path.is_relative_to(_PLUGIN) and not path.is_relative_to(_TESTS)
    )


def _shown(name: str) -> str:
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else name
