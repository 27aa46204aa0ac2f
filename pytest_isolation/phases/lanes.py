"""The ready queue of a controlled loop: a lane for each task, one for all other callbacks, one for the clock."""

from __future__ import annotations

import asyncio
from asyncio import Handle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from itertools import islice
from threading import get_ident
from types import BuiltinMethodType, MethodType
from typing import Any, Protocol

from pytest_isolation.phases.conductor import Conductor
from pytest_isolation.phases.strategies import STICKY
from pytest_isolation.users.at_work import AT_WORK

_CALLBACKS, _CLOCK = 0, -1
# Whoever ran last goes on by default, but not for more steps than these: it may wait for somebody by asking again.
MOST_IN_A_ROW = 20
# Where somebody goes on asking, time passes as it would: until the next timer, after so many steps.
_HURRY = 100
# What a loop is given to go on with a task: in C a step has a type of its own, a wake-up only a name.
_WAKEUPS = frozenset({"task_wakeup", "__step", "__wakeup"})
_METHODS = frozenset({BuiltinMethodType, MethodType})
_PY_TASK: type[Any] = getattr(asyncio.tasks, "_PyTask", asyncio.Task)
_TASKS = (asyncio.Task, _PY_TASK)


def _type_of_a_step() -> type[Any] | None:
    """What a task in C gives to ``call_soon``; None where tasks are not in C."""
    given: list[Any] = []

    class Loop(asyncio.AbstractEventLoop):
        def call_soon(self, callback: Any, *_: object, **__: object) -> Any:
            given.append(callback)

        def get_debug(self) -> bool:
            return False

    async def nothing() -> None: ...

    loop: Any = Loop
    coroutine, loop = nothing(), loop()
    task = asyncio.Task(coroutine, loop=loop)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine.close()
    return None if type(given[0]) in _METHODS else type(given[0])


_STEP = _type_of_a_step()


def _is_wakeup(callback: Any) -> bool:
    """A method of a task that makes it go on, and not just any one, such as ``task.cancel``."""
    return callback.__name__ in _WAKEUPS and isinstance(callback.__self__, _TASKS)


class AtOnce:
    """A callback that is no step of the run: it is called at the moment at which others would be ready.

    Args:
        call: must not raise; in debug mode it is a step like any other.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[Any], None]) -> None:
        self._call = call

    def __call__(self, done: Any) -> None:
        """Call it."""
        self._call(done)


class Ready(Handle):
    """What is ready, made without a question to the loop: whether it is in debug mode is asked before."""

    __slots__ = ()

    def __init__(
        self, callback: Callable[..., object], args: Sequence[Any], loop: Any, context: Context | None
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None


_FIELDS = {*("_context", "_loop", "_callback", "_args", "_cancelled", "_repr", "_source_traceback"), "__weakref__"}
MADE: type[Handle] = Ready if {*Handle.__slots__} == _FIELDS else Handle
"""How a handle is made: a later Python may have others, which only itself can make."""


class Lane:
    """What is ready of one task.

    Attributes:
        key: the same for the same task in each run.
        task: None for the lane of callbacks, and of the clock.
        arrival: of what comes next, among all that ever became ready.
        handle: what comes next; None if nothing is ready.
        more: what comes after that, each with its arrival; None until a task has anything, which is seldom.
        is_free: it may overtake others, and be overtaken: it has made a step, or is a user's.
    """

    __slots__ = ("arrival", "handle", "is_free", "key", "more", "task")

    def __init__(self, key: int, task: asyncio.Task[Any] | None) -> None:
        self.key = key
        self.task = task
        self.arrival = 0
        self.handle: Handle | None = None
        self.more: deque[tuple[int, Handle]] | None = None
        self.is_free = False


class Clock(Protocol):
    """The virtual time of the loop, which keeps its timers as every loop of asyncio does."""

    _scheduled: list[asyncio.TimerHandle]

    def due(self) -> bool:
        """A timer is so near that a slow machine would let it fire first."""

    def fire(self) -> Sequence[Handle]:
        """Let it fire: the time jumps to it; what is due then."""

    def near(self) -> Sequence[asyncio.TimerHandle]:
        """All timers that are as near, the next one first."""

    def advance(self, seconds: float) -> Sequence[Handle]:
        """Let so much time pass; what is due then."""

    def now(self) -> float:
        """In seconds."""


class Lanes:
    """Stands in for ``BaseEventLoop._ready``: a turn of the loop takes as many handles as are ready, one by one.

    Callbacks that are no steps of a task are never overtaken: asyncio promises them their order, and transports
    rely on it. Nor do new tasks overtake one another, apart from those of users, who come in any order.

    This is where most of the time of a step goes. So lanes are kept in the order of their arrival, which is mostly
    that in which they became ready anyway, and a list of options is made only where somebody looks at it.

    Args:
        conductor: decides.
        clock: of the loop.
    """

    def __init__(self, conductor: Conductor, clock: Clock) -> None:
        self._conductor = conductor
        self._clock = clock
        self._thread = get_ident()
        self._lanes: dict[asyncio.Task[Any], Lane] = {}
        self._active: dict[int, Lane] = {}
        self._callbacks: deque[tuple[int, Handle]] = deque()
        self._callback_lane = Lane(_CALLBACKS, None)
        self._clock_lane = Lane(_CLOCK, None)
        self._new = 0
        self._heard: set[Handle] = set()
        self._inbox: deque[Handle] = deque()
        self._arrivals = self._made = 0
        self._last = self._callback_lane
        self._in_a_row = 0
        self._is_sticky = conductor.strategy.order == STICKY
        # What is written down at every step.
        self._pick = conductor.strategy.pick
        self._meet = conductor.strategy.meet if conductor.looks else None
        if self._meet is not None:
            self._meet((_CALLBACKS, _CLOCK))
        self._steps, self._values, self._options_of = conductor.options.steps, conductor.values, conductor.options

    def append(self, handle: Handle) -> None:
        """Something is ready; another thread only leaves it at the door."""
        if get_ident() != self._thread:
            self._inbox.append(handle)
            return
        self._arrivals = arrival = self._arrivals + 1
        callback = handle._callback  # type: ignore[attr-defined]
        kind = type(callback)
        if kind is not _STEP and (kind not in _METHODS or not _is_wakeup(callback)):
            self._callbacks.append((arrival, handle))
            return
        try:
            lane = self._lanes[callback.__self__]
        except KeyError:
            lane = self._lane_of(callback.__self__)
        if lane.handle is not None:
            if lane.more is None:
                lane.more = deque()
            lane.more.append((arrival, handle))
            return
        lane.arrival, lane.handle = arrival, handle
        self._active[lane.key] = lane
        if not lane.is_free:
            self._new += 1

    def hear(self, handle: Handle) -> None:
        """A socket is ready, which is reported at every poll until it has been seen to."""
        if handle not in self._heard:
            self._heard.add(handle)
            self.append(handle)

    def free(self, task: asyncio.Task[Any]) -> None:
        """Let a task that is new come before others that were made before it, or after those that come later."""
        lane = self._lanes.get(task)
        if lane is not None and not lane.is_free:
            lane.is_free = True
            self._new -= lane.handle is not None

    @property
    def is_called(self) -> bool:
        """Another thread has left something at the door."""
        return bool(self._inbox)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """All that have ever been ready and have not ended; ``asyncio.all_tasks`` looks at those of all other loops."""
        return [task for task in self._lanes if not task.done()]

    def __len__(self) -> int:
        while self._inbox:
            self._conductor.external += 1
            self.append(self._inbox.popleft())
        return len(self._active) + len(self._callbacks)

    def __iter__(self) -> Iterator[Handle]:
        for lane in [*self._active.values()]:
            if lane.handle is not None:
                yield lane.handle
            yield from (handle for _, handle in lane.more or ())
        yield from (handle for _, handle in self._callbacks)

    def clear(self) -> None:
        """Forget everything: the loop is closed."""
        for some in (self._active, self._lanes, self._callbacks, self._heard, self._inbox):
            some.clear()
        self._last = self._callback_lane
        del self._clock  # which refers to this

    def popleft(self) -> Handle:
        """What runs next."""
        conductor = self._conductor
        if conductor.decides:
            lane = self._choose() if conductor.peek is None else self._choose_seen(conductor.peek)
            while lane is self._clock_lane:
                self._steps.append(_CLOCK)
                self._pass(self._clock.fire())
                lane = self._choose() if conductor.peek is None else self._choose_seen(conductor.peek)
            self._steps.append(lane.key)
        else:
            lane = self._first()
        if lane is self._callback_lane:
            handle = self._callbacks.popleft()[1]
            if self._heard:
                self._heard.discard(handle)
        else:
            handle = lane.handle  # type: ignore[assignment] # something is ready in it
            lane.handle = None
            del self._active[lane.key]
            if not lane.is_free:
                lane.is_free = True
                self._new -= 1
            if lane.more:
                self._go_on(lane)
            if self._is_sticky:
                self._in_a_row = self._in_a_row + 1 if lane is self._last else 0
                self._last = lane
        conductor.steps = made = conductor.steps + 1
        if made > conductor.alert_from:
            conductor.before(lane.task, self._clock.now, handle)
            if conductor.hurries and not conductor.steps % _HURRY:
                self._pass(self._clock.fire())
        return handle

    def ready_of(self, number: int) -> list[Lane]:
        """What is ready of somebody's work, in the order of its arrival; of callbacks the first."""
        found = [lane for lane in self._active.values() if self.works_for(lane.handle) == number]
        for arrival, handle in self._callbacks:
            if self.works_for(handle) == number:
                found = [lane for lane in found if lane.arrival < arrival]
                found.append(self._callback_lane)
                break
        return self._in_order(found)

    def works_for(self, handle: Any) -> int | None:
        """The number of the user whose work a handle does; None for the backend's own."""
        user = handle._context.get(AT_WORK)
        return None if user is None else user._number

    def next_of(self, lane: Lane) -> Handle | None:
        """What runs next in a lane; None if it is the clock's."""
        return self._callbacks[0][1] if lane is self._callback_lane else lane.handle

    def timers(self) -> Sequence[asyncio.TimerHandle]:
        """Those that are so near that a slow machine would let them fire first, the next one first."""
        return self._clock.near()

    def now(self) -> float:
        """In virtual seconds."""
        return self._clock.now()

    def _in_order(self, lanes: Sequence[Lane]) -> list[Lane]:
        """Without those that would overtake a task that was made before them."""
        allowed, has_new = [], False
        for lane in lanes:
            if lane.is_free or lane.task is None:
                allowed.append(lane)
            elif not has_new:
                has_new = True
                allowed.append(lane)
        return allowed

    def _go_on(self, lane: Lane) -> None:
        """Bring a lane forward that has something more, to the place at which that arrived."""
        assert lane.more
        lane.arrival, lane.handle = lane.more.popleft()
        self._active[lane.key] = lane
        self._active = dict(sorted(self._active.items(), key=lambda item: item[1].arrival))

    def _lane_of(self, task: asyncio.Task[Any]) -> Lane:
        if len(self._lanes) > 2 * len(self._active) + 64:  # those whose tasks have ended are forgotten now and then
            self._lanes = {one: lane for one, lane in self._lanes.items() if lane.handle or not one.done()}
        self._made += 1
        lane = self._lanes[task] = Lane(self._made, task)
        if self._meet is not None:
            self._meet((self._made,))
        return lane

    def _pass(self, due: Sequence[Handle]) -> None:
        for handle in due:
            self.append(handle)

    def _choose_seen(self, peek: Callable[[Lanes, Lane], None]) -> Lane:
        """Choose, and let the choice be seen; the machine is slow at this moment if it was in the run that is told."""
        while (seconds := self._conductor.lag()) > 0:
            self._pass(self._clock.advance(seconds))
        lane = self._choose()
        peek(self, lane)
        return lane

    def _first(self) -> Lane:
        """Whatever has been ready for the longest time."""
        for lane in self._active.values():
            return lane if not self._callbacks or lane.arrival < self._callbacks[0][0] else self._callback_lane
        return self._callback_lane

    @property
    def _goes_on(self) -> bool:
        """Whoever ran last may go on, if nobody decides otherwise."""
        return self._in_a_row < MOST_IN_A_ROW

    def _choose(self) -> Lane:
        conductor, active = self._conductor, self._active
        due = bool(self._clock._scheduled) and self._clock.due()  # the list first, for a call costs more
        if self._callbacks and not due and self._first() is self._callback_lane:
            return self._callback_lane
        if self._callbacks or self._new > 1 or conductor.order == STICKY:
            return self._choose_among(due)
        count = len(active) + due
        if count == 1:
            return self._first()
        if conductor.looks:
            keys = [*active]
            if due:
                keys.append(_CLOCK)
            value = self._pick(keys)
            lane = active.get(keys[value], self._clock_lane)
        else:
            value = self._pick(range(count))
            lane = next(islice(active.values(), value, None), self._clock_lane) if value else self._first()
        self._values.append(value)  # as conductor.pick does, for less
        self._options_of.append(count)
        if value and conductor.watcher is not None:
            conductor.watcher.deviation(lane.task for lane in [*active.values()][:value])
        return lane

    def _choose_among(self, due: bool) -> Lane:
        """The same where some may not be overtaken, or one goes on by default."""
        conductor = self._conductor
        if conductor.order == STICKY and not self._callbacks and self._new <= 1 and not conductor.looks:
            count = len(self._active) + due
            value = conductor.pick(range(count)) if count > 1 else 0
            if not value:
                return self._last if self._goes_on and self._last.key in self._active else self._first()
            lanes = self._options(due)
        else:
            lanes = self._options(due)
            value = conductor.pick([lane.key for lane in lanes]) if len(lanes) > 1 else 0
        if value and conductor.watcher is not None:
            conductor.watcher.deviation(lane.task for lane in lanes[:value])
        return lanes[value]

    def _options(self, due: bool) -> list[Lane]:
        """Who may run next, the default first."""
        lanes = [*self._active.values()]
        if self._callbacks:
            before = self._callbacks[0][0]
            if not lanes or lanes[0].arrival > before:
                lanes = []
            elif lanes[-1].arrival > before:
                lanes = [lane for lane in lanes if lane.arrival < before]
            lanes.append(self._callback_lane)
        if self._new > 1:
            lanes = self._in_order(lanes)
        if self._conductor.order == STICKY and self._goes_on and lanes[0] is not self._last and self._last in lanes:
            lanes.remove(self._last)
            lanes.insert(0, self._last)
        if due:
            lanes.append(self._clock_lane)
        return lanes
