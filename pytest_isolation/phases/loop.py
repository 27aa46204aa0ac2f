"""The controlled event loop: asyncio's own, but for who is next and what time it is.

Only the ready queue and the selector of ``asyncio.SelectorEventLoop`` are replaced, so sockets, threads, child
processes and signals work as ever. Time is virtual: it jumps to the next timer when nothing else can happen. While
nothing outside is heard, turns are made here, because the selector would be asked in each of them for nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
import socket
import sys
import threading
import time
from asyncio import Handle
from collections.abc import Callable, Collection
from contextvars import Context
from functools import cache, partial
from typing import Any

from pytest_isolation.errors import MisuseError
from pytest_isolation.phases.conductor import Conductor, Stuck
from pytest_isolation.phases.lanes import MADE, AtOnce, Lanes
from pytest_isolation.phases.outside import have_children, is_awaited
from pytest_isolation.phases.threads import Threads

# Not zero, which some code takes for "never"; all digits of a nanosecond still fit.
_BEGIN_S = 1000.0
_SLACK_S = 0.05
# After so long a nanosecond is less than what a float can tell: what is due now would not be "before now and a bit".
_FAR_S = 1e6
# What comes over a real socket is waited for so long before time jumps, longer where it would be a deadlock; and where
# somebody's work waits for it as long as on a real clock, but no longer than the last.
_GRACE_S, _LONG_GRACE_S, _PATIENCE_S = 0.02, 1.0, 5.0
# A thread that is at work may take so long, and is asked so often.
_HANG_S, _POLL_S = 10.0, 0.005
# Of so many asyncio takes those away that were cancelled, now and then.
_MANY_TIMERS = 100
_PARTS = {
    "_ready": ("append", "popleft", "clear"),
    "_selector": ("select", "get_map", "register", "unregister"),
    "_scheduled": ("append", "sort"),
    "_run_once": (),
    "_process_events": (),
}


def why_not(loop: asyncio.AbstractEventLoop) -> str | None:
    """Why the order of a loop cannot be controlled; None if it can."""
    kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
    if kind.startswith(("uvloop.", "winloop.")):
        return (
            f"{kind} is written in C and keeps its queue to itself; schedules are explored on asyncio's own loop only"
        )
    for name, methods in _PARTS.items():
        part = getattr(loop, name, None)
        lacks = [name] if part is None else [f"{name}.{method}" for method in methods if not hasattr(part, method)]
        if lacks:
            return (
                f"{kind} of Python {sys.version.split()[0]} has no {lacks[0]}, which the controlled loop replaces or "
                "reads; schedules cannot be explored on it"
            )
    return None


@cache
def why_not_asyncio() -> str | None:
    """Why asyncio's own loop cannot be built upon; asked once, for it is the same in each run."""
    loop = asyncio.SelectorEventLoop()
    try:
        return why_not(loop)
    finally:
        loop.close()


class ControlledLoop(asyncio.SelectorEventLoop):
    """An event loop on which a conductor decides who is next.

    Args:
        conductor: decides.
        inline_threads: jobs for threads are tasks of the loop, so that a run is the same each time.
        slack_s: a timer that is no further away may fire before what is ready: the machine may be that slow.

    Raises:
        MisuseError: this Python's loop lacks one of the parts.
    """

    def __init__(self, conductor: Conductor, inline_threads: bool = False, slack_s: float = _SLACK_S) -> None:
        self._now = _BEGIN_S
        self._outside = self._timers = 0
        self._threads = Threads()
        self._inline = inline_threads
        self._slack_s = slack_s
        self._jobs: set[asyncio.Task[Any] | None] = set()  # a loop holds tasks weakly
        self._ssock: socket.socket | None
        self._closed: bool
        self._debug: bool
        self._stopping: bool
        self._clock_resolution: float
        self._task_factory: Any
        self._asyncgens: Any
        self._default_executor: Any
        super().__init__(_Selector(self, conductor))
        if (reason := why_not_asyncio()) is not None:
            super().close()
            raise MisuseError(reason)
        self._scheduled: list[asyncio.TimerHandle]
        self._timer_cancelled_count: int
        self._selector: _Selector
        self._ready = self._lanes = Lanes(conductor, self)
        self._append = self._lanes.append
        self.slow_callback_duration = float("inf")

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        """As on any loop, but for the calls of other methods on the way: this is where most of a step's time goes."""
        if self._closed or self._debug:
            return super().call_soon(callback, *args, context=context)
        handle = MADE(callback, args, self, context)
        if type(callback) is AtOnce:
            callback(*args)
        else:
            self._append(handle)
        return handle

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """As on any loop, likewise."""
        if self._task_factory is not None or self._closed or self._debug:
            return super().create_task(coro, **options)
        return asyncio.Task(coro, loop=self, **options)

    def call_at(  # type: ignore[override] # the stubs know how types of arguments belong together
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As on any loop; of two that are due at the same time the one that was set first is first."""
        if self._closed:
            raise RuntimeError("Event loop is closed")
        self._timers = number = self._timers + 1
        timer = _Timer(when, callback, args, self, context)
        timer.number = number
        if when < math.inf:  # what is due at no time never is
            heapq.heappush(self._scheduled, timer)
            timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _run_once(self) -> None:
        """Make turns, as asyncio does, but for asking what can have no answer, where nothing outside is heard."""
        lanes, resolution = self._lanes, self._clock_resolution
        while not (self._selector.watched > (self._ssock is not None) or len(self._scheduled) > _MANY_TIMERS):
            count = len(lanes)
            if not count and not self._jump():
                break
            if self._scheduled and (not count or self._scheduled[0]._when < self._now + resolution):  # type: ignore[attr-defined]
                for handle in self.advance(0.0):
                    lanes.append(handle)
                count = len(lanes)
            for _ in range(count):
                handle = lanes.popleft()
                if not handle._cancelled:
                    handle._run()
                del handle  # or what it refers to lives until the next one runs
            if self._stopping:
                return
        super()._run_once()  # type: ignore[misc]

    def _jump(self) -> bool:
        """Be at the next timer where nothing else can happen."""
        is_outside = self._outside or self._ssock is not None or threading.active_count() > 1
        if is_outside or self._stopping or not self._scheduled:
            return False  # a thread or a signal may leave something in the loop's own pipe, which is looked at then
        self.skip(0.0)
        return True

    def due(self) -> bool:
        """A timer is so near that a slow machine would let it fire first."""
        scheduled = self._scheduled
        timer = scheduled[0] if scheduled and not scheduled[0]._cancelled else self._next_timer()
        return timer is not None and 0 < timer._when - self._now <= self._slack_s  # type: ignore[attr-defined]

    def fire(self) -> list[Handle]:
        """Let the next timer fire: the time jumps to it; what is due then."""
        timer = self._next_timer()
        return [] if timer is None else self.advance(timer.when() - self._now, timer.when())

    def near(self) -> list[asyncio.TimerHandle]:
        """All timers that are as near, the next one first."""
        near = (one for one in self._scheduled if not one.cancelled() and 0 < one.when() - self._now <= self._slack_s)
        return sorted(near)

    def advance(self, seconds: float, until: float | None = None) -> list[Handle]:
        """Let so much time pass; what is due then."""
        self._be_at(max(self._now, self._now + seconds if until is None else until))
        due: list[Handle] = []
        scheduled, end = self._scheduled, self._now + self._clock_resolution
        while scheduled and (scheduled[0]._cancelled or scheduled[0]._when < end):  # type: ignore[attr-defined]
            timer = self._take_timer()
            if not timer._cancelled:
                due.append(timer)
        return due

    def skip(self, timeout: float) -> None:
        """Nothing can happen before the next timer: be there. Exactly, so that equal times stay equal."""
        timer = self._next_timer()
        self._be_at(max(self._now, timer.when()) if timer is not None else self._now + timeout)

    def _be_at(self, now: float) -> None:
        self._now = now
        if now > _FAR_S:
            self._clock_resolution = 2 * math.ulp(now)

    def is_waited_for(self) -> bool:
        """A thread is at work that may call back."""
        return self._outside > 0 or self._threads.are_at_work()

    def may_be_woken(self) -> bool:
        """A thread that was there before does something that may end here."""
        return self._threads.may_wake()

    def is_called(self) -> bool:
        """A thread has called back; from now on it is heard."""
        if self._ssock is None:
            super()._make_self_pipe()  # type: ignore[misc]
        return self._lanes.is_called

    def tasks(self) -> Collection[asyncio.Task[Any]]:
        """All that have not ended."""
        if self._task_factory is None:
            return self._lanes.tasks()
        return asyncio.all_tasks(self)  # an eager one has its first step without being ready before

    def free(self, task: asyncio.Task[Any]) -> None:
        """A task is a user's: they come in any order, though other new tasks come in that in which they were made."""
        self._lanes.free(task)

    def is_left_something(self) -> bool:
        """A thread has left something at the door, and may have ended since."""
        return self._lanes.is_called

    @property
    def has_generators(self) -> bool:
        """Asynchronous generators have begun that may not have ended."""
        return bool(self._asyncgens)

    @property
    def has_threads(self) -> bool:
        """There is a pool of threads."""
        return self._default_executor is not None

    def hears_outside(self) -> bool:
        """Sockets or pipes are watched, besides the loop's own."""
        return self._selector.watched > (self._ssock is not None)

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """As on any loop; the signal comes through the loop's own pipe."""
        self.is_called()
        super().add_signal_handler(sig, callback, *args)

    def run_in_executor(  # type: ignore[override] # the stubs know how types of arguments belong together
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function in a thread, or as a task of its own: in one that a cancellation does not stop, either way."""
        if self._inline:
            future = self.create_future()
            self.run_inline(future, partial(func, *args))
            return future
        self._outside += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._has_come_back)
        return future

    def _has_come_back(self, _: object) -> None:
        self._outside -= 1

    def run_inline(self, future: asyncio.Future[Any] | None, call: Callable[[], Any]) -> None:
        """Do the work of a thread in a task, with as little of the caller's Context as a thread has.

        Args:
            future: is told what came of it.
            call: the work.
        """

        async def job() -> None:
            try:
                value = call()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # whoever waits for the job is to hear of it
                if future is not None and not future.done():
                    future.set_exception(error)
            else:
                if future is not None and not future.done():
                    future.set_result(value)
            self._jobs.discard(asyncio.current_task())

        name = getattr(getattr(call, "func", call), "__name__", "function")
        self._jobs.add(self.create_task(job(), name=f"thread job {name}", context=Context()))

    def _next_timer(self) -> asyncio.TimerHandle | None:
        while self._scheduled and self._scheduled[0]._cancelled:
            self._take_timer()
        return self._scheduled[0] if self._scheduled else None

    def _take_timer(self) -> asyncio.TimerHandle:
        """The first of all, as asyncio takes it away."""
        timer = heapq.heappop(self._scheduled)
        timer._scheduled = False  # type: ignore[attr-defined]
        if timer._cancelled:
            self._timer_cancelled_count -= 1
        return timer

    def close(self) -> None:
        """As any loop; it refers to nothing any more that refers to it, so that it is gone without being collected."""
        super().close()
        del self._append

    def _add_callback(self, handle: Handle) -> None:
        """A socket is ready, or a signal came."""
        if not handle.cancelled():
            self._lanes.hear(handle)

    def _make_self_pipe(self) -> None:
        """Not yet: most runs have no threads and no signals, and a pipe costs more than they do."""
        self._ssock = self._csock = None

    def _close_self_pipe(self) -> None:
        if self._ssock is not None:
            super()._close_self_pipe()  # type: ignore[misc]


class _Timer(asyncio.TimerHandle):
    """A timer of virtual time, on which many are due at the same moment; on a real clock no two are.

    Attributes:
        number: it comes before those of its time that have a higher one.
    """

    __slots__ = ("number",)
    number: int

    def __lt__(self, other: _Timer) -> bool:  # type: ignore[override] # a loop has no others
        mine, theirs = self._when, other._when  # type: ignore[attr-defined]
        return self.number < other.number if mine == theirs else bool(mine < theirs)


class _Selector(selectors.BaseSelector):
    """A selector for a loop with virtual time: it waits only for what is outside, never for a timer.

    The real one is made when something is watched.

    Attributes:
        watched: so many sockets and pipes.
    """

    def __init__(self, loop: ControlledLoop, conductor: Conductor) -> None:
        self.watched = 0
        self._loop = loop
        self._conductor = conductor
        self._made: selectors.BaseSelector | None = None

    @property
    def _real(self) -> selectors.BaseSelector:
        if self._made is None:
            self._made = selectors.DefaultSelector()
        return self._made

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._real.register(fileobj, events, data)
        self.watched += 1
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._real.unregister(fileobj)
        self.watched -= 1
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Any:
        return self._real.get_map() if self._made is not None else {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def select(self, timeout: float | None = None) -> list[Any]:
        loop = self._loop
        if timeout is not None and timeout <= 0:
            return self._poll(0) if loop.hears_outside() else []
        events = self._poll(0) if self.watched else []
        if not events and (loop.hears_outside() or loop._outside or threading.active_count() > 1):
            events = self._from_outside(timeout)
        if events or loop.is_left_something():
            return events
        if timeout is None:
            raise Stuck("everybody waits, and nothing is left that could wake anybody up")
        loop.skip(timeout)
        return events

    def _from_outside(self, timeout: float | None) -> list[Any]:
        """What comes from threads and sockets, for which time stands still."""
        loop, begun = self._loop, time.monotonic()
        if loop.is_called():
            return []
        while loop.is_waited_for():
            if (events := self._poll(_POLL_S)) or loop.is_called():
                return events
            if time.monotonic() - begun > _HANG_S:
                raise Stuck(f"a thread was waited for, and did not come back within {_HANG_S:g} s")
        if loop.hears_outside() or have_children():  # a peer may still wake somebody; without a timer nothing else can
            is_patient = not self._conductor.is_over and is_awaited(loop.tasks())
            longest_s = _PATIENCE_S if is_patient else _LONG_GRACE_S if timeout is None else _GRACE_S
            return self._poll(longest_s if timeout is None else min(timeout, longest_s))
        begun = time.monotonic()
        while timeout is None and loop.may_be_woken() and time.monotonic() - begun < _LONG_GRACE_S:
            if (events := self._poll(_POLL_S)) or loop.is_called():
                return events
        return self._poll(0)

    def _poll(self, timeout: float) -> list[Any]:
        """Count what comes over sockets; threads are counted where they leave what they call."""
        events, pipe = self._real.select(timeout), self._loop._ssock
        if events:
            own = -1 if pipe is None else pipe.fileno()
            self._conductor.external += sum(key.fd != own for key, _ in events)
        return events
