"""Steps one user's run from suspension point to suspension point, and cuts it at one of them.

A suspension point is an ``await`` at which a task really gives up control. The tasks that the scenario starts are
followed too, on asyncio; a cancellation always comes from outside, as a lost connection does, so it goes to the user's
own task and from there to those that it waits for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import anyio

from pytest_isolation.loops import on_asyncio
from pytest_isolation.phases.breaking import break_off, is_idle, take_back
from pytest_isolation.phases.expiry import Timers
from pytest_isolation.phases.network import hold_back
from pytest_isolation.phases.points import Frame, Point, Stepped, frames_of, raw_frames, waits_at
from pytest_isolation.users.at_work import ASKING
from pytest_isolation.users.cast import User

_DRIVER: ContextVar[Driver | None] = ContextVar("pytest_isolation_driver", default=None)


class Cut(Exception):
    """The user was cancelled by the test, at a suspension point."""


class Driver:
    """Drives one run.

    Args:
        at: the point at which the run is cut; None cuts nothing.
        fault: what is raised there; None cancels.
        expire: let all timers of the run expire there instead, before anything else happens.
        by_code: know the point only by the code that waits, where that has come so often, and not by its number: a run
            after a cut may take a longer way to it, and each look at the code costs time.

    Attributes:
        points: those that were met, if nothing was to be cut.
        cut: the point at which the run was cut; None if it never came to it.
        held: what it waited for at that point lets nobody go before it has ended, so nothing was raised there.
        loop: what the event loop is called, once it has been seen.
    """

    def __init__(
        self,
        at: Point | None = None,
        fault: Exception | None = None,
        expire: bool = False,
        by_code: bool = False,
    ) -> None:
        self.points: list[Point] = []
        self.cut: Point | None = None
        self.held = False
        self.loop = ""
        self._timers: Timers | None = None
        self._at = at
        self._by_code = by_code
        self._again = 0
        self._seen: Counter[tuple[Frame, ...]] = Counter()
        self._fault = fault
        self._expire = expire
        self._met = 0
        self._over = False
        self._cancel: Callable[[], object] = lambda: None
        self._let_go: Callable[[], None] = lambda: None

    async def play(self, scenario: Callable[[User], Awaitable[object]], user: User) -> None:
        """Drive a run to its end.

        Args:
            scenario: what the user does.
            user: who plays.

        Raises:
            Cut: this one was cancelled at the point.
        """
        token = _DRIVER.set(self)
        try:
            if on_asyncio():
                await self._play_on_asyncio(scenario(user))
            else:
                self.loop = "trio"
                with anyio.CancelScope() as scope:
                    self._cancel, self._timers = scope.cancel, self._own_timers()
                    await _Steps(_coroutine(scenario(user)), self)
                if scope.cancelled_caught:
                    raise Cut
        finally:
            self._over = True
            _DRIVER.reset(token)

    async def _play_on_asyncio(self, run: Awaitable[object]) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._cancel = task.cancel
        self.loop, self._timers = type(loop).__module__.partition(".")[0], self._own_timers()
        try:
            with _following(loop):
                await _Steps(_coroutine(run), self)
        except asyncio.CancelledError:
            if self.cut is None or self._fault is not None or self._expire or task.cancelling() > 1:
                raise
            task.uncancel()
            raise Cut from None

    @property
    def shows_timers(self) -> bool:
        """The event loop does."""
        return self._timers is not None and self._timers.are_shown

    def _own_timers(self) -> Timers:
        return Timers(lambda context: context.get(_DRIVER) is self)

    def let_go(self) -> None:
        """Let the network be as fast as it is again."""
        self._let_go()

    def meet(self, waits: Any, awaited: object) -> Exception | None:
        """A coroutine has given up control; what to raise in it.

        Args:
            waits: the coroutine.
            awaited: what it gave to the event loop.
        """
        if self._over or self.cut is not None or ASKING.get():
            return None
        self._met += 1
        if self._at is None:
            self.points.append(self._point(waits, awaited))
            return None
        if not self._by_code and self._met != self._at.number:
            return None
        if not waits_at(waits, self._at.frames):
            return None
        self._again = self._again + 1 if self._by_code else self._at.time
        if self._again != self._at.time:
            return None
        self.cut = self._point(waits, awaited)
        if on_asyncio():
            self._let_go = hold_back(asyncio.get_running_loop())
        if self._expire and self._timers is not None:
            self._timers.expire(awaited, self.cut.is_asleep)
        elif self._fault is None:
            self._cancel()
        else:
            return self._interrupt(waits, awaited, self._fault)
        return None

    def _interrupt(self, waits: Any, awaited: object, fault: Exception) -> Exception | None:
        """Take back what a coroutine waits for; what is then to be raised in it."""
        if isinstance(awaited, asyncio.Future):
            if isinstance(fault, OSError) and self._breaks_off(waits, fault):
                return None  # it learns of that as of any other break
            awaited._asyncio_future_blocking = False
            if self.cut is not None and self.cut.frames and self.cut.frames[0].is_library:
                awaited.cancel()  # it was of this run alone
        elif not on_asyncio():
            if isinstance(fault, OSError):  # raised in any case: to whoever reads, an end would be no reset
                self._breaks_off(waits, fault)
            point, self.cut = self.cut, None

            def raised() -> None:
                self.cut, self.held = point, False

            self.held = not take_back(awaited, fault, raised)
            if self.held:
                return None
            self.cut = point
        return fault

    def _breaks_off(self, waits: Any, fault: OSError) -> bool:
        return break_off([*raw_frames(waits)][::-1], fault)

    def _point(self, waits: Any, awaited: object) -> Point:
        frames = tuple(frames_of(waits))[::-1]
        self._seen[frames] += 1
        time, on_task = self._again or self._seen[frames], isinstance(awaited, asyncio.Task)
        point = Point(self._met, frames, time, on_task, is_idle(awaited))
        if self._expire and self._timers is not None and self._timers.pending(awaited, point.is_asleep):
            return replace(point, timed=True)
        return point


class _Steps(Stepped, Coroutine[Any, Any, Any]):
    """A coroutine around another one, which lets the driver see each time when that one gives up control.

    No ``async def``: a task that is cancelled before its first step throws into what it was given, and that must reach
    the coroutine inside.
    """

    __slots__ = ("_meet",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any], driver: Driver) -> None:
        self.coroutine = coroutine
        self._meet = driver.meet

    def send(self, value: Any) -> Any:
        """Go on with what was awaited."""
        awaited = self.coroutine.send(value)
        if (fault := self._meet(self.coroutine, awaited)) is not None:
            return self.throw(fault)
        return awaited

    def throw(self, *error: Any) -> Any:
        """Go on with an exception."""
        awaited = self.coroutine.throw(*error)
        if (fault := self._meet(self.coroutine, awaited)) is not None:
            return self.throw(fault)
        return awaited

    def close(self) -> None:
        """End."""
        self.coroutine.close()

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a task's coroutine: its name, its frame, how far it has got."""
        return getattr(self.coroutine, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value] # it has what `await` uses of a generator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.send(None)


async def _coroutine(awaitable: Awaitable[object]) -> object:
    return await awaitable


class _Following:
    """Makes the tasks of a loop, and has those driven that a driven task starts.

    Attributes:
        before: the factory that made them before; None is asyncio's own.
        runs: how many are driven; whoever hangs may end before or after the one who came next.
    """

    def __init__(self, before: Any) -> None:
        self.before = before
        self.runs = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        driver = _DRIVER.get()
        if driver is not None and not driver._over:
            coroutine = _Steps(coroutine, driver)
        if self.before is None:
            return asyncio.Task(coroutine, loop=loop, **options)
        return self.before(loop, coroutine, **options)


@contextmanager
def _following(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Drive the tasks too that a driven task starts."""
    now: Any = loop.get_task_factory()
    factory = now if isinstance(now, _Following) else _Following(now)
    factory.runs += 1
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        factory.runs -= 1
        if not factory.runs:
            loop.set_task_factory(factory.before)
