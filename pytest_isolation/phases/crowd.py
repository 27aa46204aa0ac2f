"""All at once: every user in a task (or a thread) and a Context of its own; nothing but the backend joins them."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from time import perf_counter
from typing import Any, Protocol

import anyio

from pytest_isolation.loops import from_signal, interruption_unwrapped, on_asyncio
from pytest_isolation.model import Run
from pytest_isolation.phases.points import stood_at
from pytest_isolation.phases.writing import with_files
from pytest_isolation.users.cast import User, run_of
from pytest_isolation.verdicts import Interval

_SWITCH_INTERVAL_S = 1e-5


async def crowd(
    scenario: Callable[[User], Awaitable[object]],
    users: Sequence[User],
    limit_s: float,
    rate: float | None = None,
    clock: Clock | None = None,
) -> list[Run]:
    """Let users play the scenario concurrently, on the running event loop.

    Args:
        scenario: what one user does.
        users: who plays.
        limit_s: who has not ended after this time is cancelled, and has not ended.
        rate: arrivals a second, evenly spaced and fixed beforehand; None lets all of them arrive at once.
        clock: tells what the machine added to each run.

    Returns:
        A run for each user, timed from the moment it was due.
    """
    start, mark = perf_counter(), None if clock is None else clock.start()
    playing = _Playing(scenario, clock)
    with interruption_unwrapped(), anyio.move_on_after(limit_s):
        async with anyio.create_task_group() as tasks:
            for index, user in enumerate(users):
                due = start if rate is None else start + index / rate
                if (early := due - perf_counter()) > 0:
                    await anyio.sleep(early)
                if clock and rate is not None:
                    mark = clock.as_of(due)
                tasks.start_soon(playing.play, user, due, mark, tasks.cancel_scope.cancel)
    if playing.broken is not None:
        raise playing.broken
    return _all_runs(users, playing.runs, perf_counter() - start)


class _Playing:
    """The users of a crowd, while they play.

    Args:
        scenario: what one user does.
        clock: tells what the machine added to each run.

    Attributes:
        runs: of those who have ended, or were cancelled.
        broken: what ends the whole test.
    """

    def __init__(self, scenario: Callable[[User], Awaitable[object]], clock: Clock | None) -> None:
        self.runs: dict[User, Run] = {}
        self.broken: BaseException | None = None
        self._scenario = scenario
        self._clock = clock
        self._played: dict[User, Interval] = {}
        self._waiting: dict[User, str] = {}
        self._cancelled = anyio.get_cancelled_exc_class()

    async def play(self, user: User, due: float, mark: Any, stop: Callable[[], object]) -> None:
        """Let one user play.

        Args:
            user: plays.
            due: when its run was to begin.
            mark: where the clocks stood then.
            stop: stops all of them.
        """
        error: BaseException | None = None
        try:
            await _in_own_task(self._timed, user)
        except (self._cancelled, KeyboardInterrupt, SystemExit, GeneratorExit):
            waits_at = self._waiting.get(user, "")
            self.runs[user] = run_of(user, None, False, perf_counter() - due, waits_at=waits_at)
            raise
        except BaseException as raised:  # pytest's own outcomes are BaseExceptions, and are this user's
            if from_signal(raised):  # a time limit for the whole test, which this user's code happened to be in
                self.broken = raised if self.broken is None else self.broken
                stop()
            error = raised
        when = self._played.get(user) or Interval(due, perf_counter())
        seconds = when.high - due
        self.runs[user] = run_of(user, error, True, seconds, when, _lost_s(self._clock, mark, seconds))

    async def _timed(self, user: User) -> None:
        begun = perf_counter()
        try:
            await self._scenario(user)
        except self._cancelled as stopped:
            self._waiting[user] = stood_at(stopped)
            raise
        finally:
            self._played[user] = Interval(begun, perf_counter())


def _all_runs(users: Sequence[User], runs: Mapping[User, Run], seconds: float) -> list[Run]:
    """The runs of all of them; who is not among those who have played has not ended in so long."""
    return [with_files(user, runs.get(user) or run_of(user, None, False, seconds)) for user in users]


def forget_frames(run: Run) -> None:
    """Let go of what a user's functions had in their variables when it was cut; nobody is shown that traceback."""
    error = run.error
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def most_at_once(runs: Iterable[Run]) -> int:
    """How many runs were under way at the same time, at the most."""
    changes = [(at, step) for run in runs for at, step in ((run.played.low, 1), (run.played.high, -1))]
    return max(accumulate(step for _, step in sorted(changes)), default=0)


class Clock(Protocol):
    """Tells what the machine added (``latency.noise``)."""

    def start(self) -> Any:
        """Where the clocks of the calling thread stand."""

    def as_of(self, due: float) -> Any:
        """Where they stood at a moment that may be past."""

    def lost_s(self, since: Any, seconds: float) -> float:
        """How many of the seconds since then were the machine's."""


class CancelledByOthers(Exception):
    """A user's task was cancelled, and not by the test."""


async def _in_own_task(scenario: Callable[[User], Awaitable[object]], user: User) -> None:
    """Play in a task that the group does not own: a stray cancellation is this user's, and stops nobody else."""
    if not on_asyncio():
        await scenario(user)
        return
    own = asyncio.ensure_future(scenario(user))
    try:
        await own
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if own.cancelled() and current is not None and not current.cancelling():
            raise CancelledByOthers(f"the task of {user!r} was cancelled, though the test cancelled nobody") from None
        raise


def crowd_in_threads(
    scenario: Callable[[User], object],
    users: Sequence[User],
    limit_s: float,
    often: bool = True,
    clock: Clock | None = None,
) -> list[Run]:
    """Let users play the scenario concurrently, a thread each.

    A user who is alone plays in the calling thread, as the test would without the plugin.

    Args:
        scenario: what one user does.
        users: who plays.
        limit_s: who has not ended after this time is left behind, and has not ended.
        often: switch threads as often as the interpreter allows, which finds more and takes longer.
        clock: tells what the machine added to each run.

    Returns:
        A run for each user, timed from the moment at which all of them were let go.
    """
    if len(users) == 1:
        run = contextvars.copy_context().run(_play_here, scenario, users[0], perf_counter(), clock)
        return [with_files(users[0], run)]
    runs: dict[User, Run] = {}
    let_go: list[float] = []
    barrier = threading.Barrier(len(users), action=lambda: let_go.append(perf_counter()))

    def play(user: User) -> None:
        try:
            barrier.wait()
        except threading.BrokenBarrierError:  # not all of them could be started
            return
        [due] = let_go
        try:
            runs[user] = _play_here(scenario, user, due, clock)
        except BaseException as error:  # nobody else would see it: a thread has no caller
            runs[user] = run_of(user, error, True, perf_counter() - due)

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(play, user), name=repr(user), daemon=True)
        for user in users
    ]
    try:
        _run(threads, limit_s, often)
    except BaseException:
        barrier.abort()
        raise
    return _all_runs(users, runs, limit_s)


def _run(threads: Sequence[threading.Thread], limit_s: float, often: bool) -> None:
    """Let threads run until they have ended, or the time is over."""
    before = sys.getswitchinterval()
    if often:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        for thread in threads:
            thread.start()
        deadline = perf_counter() + limit_s
        for thread in threads:
            thread.join(max(0.0, deadline - perf_counter()))
    finally:
        sys.setswitchinterval(before)


def _play_here(scenario: Callable[[User], object], user: User, due: float, clock: Clock | None) -> Run:
    mark = None if clock is None else clock.as_of(due)
    begun, error = perf_counter(), None
    try:
        scenario(user)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as raised:  # pytest's own outcomes are BaseExceptions, and are this user's
        if from_signal(raised):
            raise
        error = raised
    ended = perf_counter()
    return run_of(user, error, True, ended - due, Interval(begun, ended), _lost_s(clock, mark, ended - due))


def _lost_s(clock: Clock | None, mark: Any, seconds: float) -> float:
    return 0.0 if clock is None else clock.lost_s(mark, seconds)
