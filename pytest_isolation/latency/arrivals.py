"""Several runs of a body at once: as many in flight as are asked for, or as they arrive.

In a closed model a run begins when another has ended, so a backend that stalls is asked nothing meanwhile, and what
was never sent is not slow (coordinated omission; Tene, *How NOT to measure latency*). Paced arrivals are fixed
beforehand and wait for nobody: latency counts from the moment at which a run was due.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from time import perf_counter
from typing import Any

import anyio
from anyio.abc import TaskGroup

from pytest_isolation.latency.decide import Step
from pytest_isolation.latency.noise import Clock, Mark
from pytest_isolation.latency.quantile import least_samples, nearest_rank
from pytest_isolation.latency.sampler import Course, Limits, Repeated, caught, in_own_task, nth_run, take, warm_up
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.loops import interruption_unwrapped
from pytest_isolation.verdicts import Arrivals

Body = Callable[[], Awaitable[object]]

# More than this in flight, and it is the test that is measured.
MOST_IN_FLIGHT = 1000
_LEAST_TO_TELL = 40


@dataclass(frozen=True, slots=True)
class Pace:
    """How runs arrive.

    Attributes:
        rate: arrivals a second; of each user if there are some.
        users: so many users, spread evenly, each with one run at a time; None lets every arrival begin when it is due.
    """

    rate: float
    users: int | None = None

    def due_s(self, number: int, user: int = 0) -> float:
        """When a run is due, in seconds after the first one.

        Args:
            number: the how manieth of its user, from 0.
            user: which user, from 0.
        """
        return (number + user / (self.users or 1)) / self.rate


def still_growing(backlog: Sequence[float]) -> bool:
    """Whether a queue grew all the time: from each quarter to the next, and in the last as much as before.

    A stall makes a queue jump and shrink again; that is not overload.

    Args:
        backlog: its length (or how far it was behind, in runs) at each arrival.
    """
    part = len(backlog) // 4
    if 4 * part < _LEAST_TO_TELL:
        return False
    first, second, third, last = (fmean(backlog[index * part : (index + 1) * part]) for index in range(4))
    growth = last - first
    steps = (second - first, third - second, last - third)
    return growth >= max(3.0, 0.02 * len(backlog)) and min(steps) >= growth / 6


async def sample_closed(body: Body, ledger: Ledger, limits: Limits, concurrency: int) -> None:
    """Sample an asynchronous body with so many runs in flight at once, each in a task of its own.

    Args:
        body: what is timed.
        ledger: where samples go.
        limits: how far it is sampled.
        concurrency: runs in flight, ≥ 1.
    """
    several = _Several(body, ledger, limits)
    ledger.arrivals = Arrivals(concurrency=concurrency)

    async def once() -> None:
        await several.run(perf_counter(), ledger.clock.start())

    async def again_and_again() -> None:
        while several.takes_more:
            several.course.begun += 1
            await in_own_task(once)

    if await several.warm_up():
        return
    await several.all_of([once] * concurrency)
    several.begin()
    while await several.goes_on():
        await several.all_of([again_and_again] * concurrency)


async def sample_paced(body: Body, ledger: Ledger, limits: Limits, pace: Pace) -> None:
    """Sample an asynchronous body in an open model: arrivals are fixed beforehand and wait for nobody.

    Nothing of the warm-up is in flight when the first sample is due, and a run that has begun is waited for: leaving
    out the slow ones would flatter.

    Args:
        body: run once for every arrival, in a task of its own.
        ledger: where samples go.
        limits: how far it is sampled.
        pace: when runs are due.
    """
    several = _Several(body, ledger, limits)
    if await several.warm_up():
        return
    several.begin()
    stretch = _Stretch(several, pace, ledger.clock)
    try:
        while await several.goes_on():
            stretch.begin()
            users = range(pace.users or 0)
            await several.all_of([partial(stretch.come_back, user) for user in users] if users else [stretch.arrive])
    finally:
        ledger.arrivals = stretch.arrivals()


class _Several:
    """What closed and paced sampling have in common."""

    def __init__(self, body: Body, ledger: Ledger, limits: Limits) -> None:
        self._body = body
        self._ledger = ledger
        self._limits = limits
        self._warmed = 0
        self._errors: list[BaseException] = []
        self._tasks: TaskGroup | None = None
        self.course = Course(ledger, limits)

    async def warm_up(self) -> bool:
        """Run alone a few times; whether the body sampled a part of itself, so that it is not to be repeated."""

        async def warm() -> None:
            take(self._ledger, await self._body(), 0.0, 0.0)

        for number in warm_up(self._limits):
            with nth_run(number):
                await in_own_task(warm)
            self._warmed = number + 1
            if self._ledger.measured:
                return True
        return False

    def begin(self) -> None:
        """Forget the warm-up."""
        self._ledger.clear()
        self.course = Course(self._ledger, self._limits)

    @property
    def takes_more(self) -> bool:
        """Another run may begin."""
        return self.course.step is Step.SAMPLE and not self._errors

    async def goes_on(self) -> bool:
        """Whether there is to be another stretch of samples; the pause before a confirming one is made here."""
        step = self.course.step
        if step is Step.CONFIRM:
            gc.collect()
            await anyio.sleep(self._limits.pause_s)
            self.course.confirm()
        return step is not Step.STOP

    async def run(self, due: float, mark: Mark) -> None:
        """Run the body once, and take its time from when it was due; its exception ends all."""
        with caught(self._errors), Repeated(self._warmed + self.course.ended):
            value = await self._body()
            seconds = perf_counter() - due
            take(self._ledger, value, seconds, self._ledger.clock.lost_s(mark, seconds))
            self.course.ended += 1
        if self._errors and self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def start(self, due: float, mark: Mark) -> None:
        """Begin a run, and do not wait for it; only while ``all_of`` is under way."""
        assert self._tasks is not None
        self._tasks.start_soon(self.run, due, mark)

    async def all_of(self, several: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Let all of them run at once to their end; the first exception of a body ends them."""
        with interruption_unwrapped():
            async with anyio.create_task_group() as self._tasks:
                for one in several:
                    self._tasks.start_soon(one)
        if self._errors:
            raise self._errors[0]


class _Stretch:
    """Paced arrivals from the first to a pause, and what is to be known of them."""

    def __init__(self, several: _Several, pace: Pace, clock: Clock) -> None:
        self._several = several
        self._pace = pace
        self._clock = clock
        self._start = 0.0
        self._lags: list[float] = []
        self._backlog: list[float] = []
        self._in_flight = self._dropped = 0

    def begin(self) -> None:
        """From now on."""
        self._start = perf_counter()
        self._backlog.clear()

    def arrivals(self) -> Arrivals:
        """How they arrived."""
        lags = sorted(self._lags)
        lag_s = nearest_rank(lags, 0.95) if len(lags) >= least_samples(0.95) else None
        growing = still_growing(self._backlog)
        return Arrivals(None, self._pace.rate, self._pace.users, lag_s, self._dropped, growing)

    async def arrive(self) -> None:
        """Begin every run when it is due, whatever became of those before."""
        number = 0
        while self._several.takes_more:
            due = self._start + self._pace.due_s(number)
            mark = await self._due(due)
            if mark is None:
                return
            number += 1
            course = self._several.course
            in_flight = course.begun - course.ended
            self._backlog.append(in_flight)
            if in_flight >= MOST_IN_FLIGHT:
                self._dropped += 1
                continue
            course.begun += 1
            self._several.start(due, mark)

    async def come_back(self, user: int) -> None:
        """One user, whose next run is due whether or not the last one has ended, and begins when it has."""
        number = 0
        while self._several.takes_more:
            due = self._start + self._pace.due_s(number, user)
            mark = await self._due(due)
            if mark is None:
                return
            number += 1
            self._backlog.append(self._lags[-1] * self._pace.rate)
            self._several.course.begun += 1
            await in_own_task(partial(self._several.run, due, mark))

    async def _due(self, due: float) -> Mark | None:
        """Wait for the moment; None if nothing is to begin any more."""
        await anyio.sleep(max(0.0, due - perf_counter()))
        if not self._several.takes_more:
            return None
        self._lags.append(max(0.0, perf_counter() - due))
        return self._clock.as_of(due)
