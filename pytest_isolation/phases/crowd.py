"""All at once: every user in a task (or a thread) and a Context of its own; nothing but the backend joins them."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
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
    runs: dict[User, Run] = {}
    played: dict[User, Interval] = {}
    waiting: dict[User, str] = {}
    broken: list[BaseException] = []
    cancelled = anyio.get_cancelled_exc_class()
    start, mark = perf_counter(), None if clock is None else clock.start()

    async def timed(user: User) -> None:
        begun = perf_counter()
        try:
            await scenario(user)
        except cancelled as stopped:
            waiting[user] = stood_at(stopped)
            raise
        finally:
            played[user] = Interval(begun, perf_counter())

    async def play(user: User, due: float, mark: Any) -> None:
        error: BaseException | None = None
        try:
            await _in_own_task(timed, user)
        except (cancelled, KeyboardInterrupt, SystemExit, GeneratorExit):
            runs[user] = run_of(user, None, False, perf_counter() - due, waits_at=waiting.get(user, ""))
            raise
        except BaseException as raised:  # pytest's own outcomes are BaseExceptions, and are this user's
            if from_signal(raised):  # a time limit for the whole test, which this user's code happened to be in
                broken.append(raised)
                tasks.cancel_scope.cancel()
            error = raised
        when = played.get(user) or Interval(due, perf_counter())
        runs[user] = run_of(user, error, True, when.high - due, when, _lost_s(clock, mark, when.high - due))

    with interruption_unwrapped(), anyio.move_on_after(limit_s):
        async with anyio.create_task_group() as tasks:
            for index, user in enumerate(users):
                due = start if rate is None else start + index / rate
                if (early := due - perf_counter()) > 0:
                    await anyio.sleep(early)
                if clock and rate is not None:
                    mark = clock.as_of(due)
                tasks.start_soon(play, user, due, mark)
    if broken:
        raise broken[0]
    played_s = perf_counter() - start
    return [with_files(user, runs.get(user) or run_of(user, None, False, played_s)) for user in users]


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
    before = sys.getswitchinterval()
    if often:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        for thread in threads:
            thread.start()
        deadline = perf_counter() + limit_s
        for thread in threads:
            thread.join(max(0.0, deadline - perf_counter()))
    except BaseException:
        barrier.abort()
        raise
    finally:
        sys.setswitchinterval(before)
    return [with_files(user, runs.get(user) or run_of(user, None, False, limit_s)) for user in users]


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
