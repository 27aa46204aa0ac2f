"""Runs a body again after it has missed its budget, slowly, to see what it waits for.

Nothing of this is active while latencies are judged: it costs some microseconds for every suspension.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import types
from asyncio.events import Handle
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from time import perf_counter, thread_time
from types import TracebackType
from typing import Any, Self

import anyio

from pytest_isolation.latency.attribution import (
    BLOCKED,
    GC,
    LOCK,
    LOOP_QUEUE,
    MACHINE,
    OWN_CPU,
    Call,
    attribute,
    frames_behind,
    waiting_for,
)
from pytest_isolation.latency.noise import Clock
from pytest_isolation.latency.sampler import caught, in_own_task
from pytest_isolation.loops import interruption_unwrapped, on_asyncio
from pytest_isolation.verdicts import Attribution

# A select that took this long had nothing to do: whatever came then was not waiting for the loop.
_IDLE_S = 50e-6


class Tracer:
    """Notes what calls spend their time on, between ``with`` and its end.

    Args:
        clock: tells what the machine added.

    Attributes:
        clock: the same.
        loop: watches the event loop; None where that cannot be done.
        gc_s: seconds that garbage collections have taken.
        calls: what was traced.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loop = _LoopWatch() if on_asyncio() and _selector() is not None else None
        self.gc_s = self._gc_begun = 0.0
        self.calls: list[Call] = []

    def __enter__(self) -> Self:
        gc.callbacks.append(self._collected)
        if self.loop is not None:
            self.loop.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        gc.callbacks.remove(self._collected)
        if self.loop is not None:
            self.loop.remove()

    def _collected(self, phase: str, _info: object) -> None:
        if phase == "start":
            self._gc_begun = perf_counter()
        else:
            self.gc_s += perf_counter() - self._gc_begun

    def attribution(self) -> Attribution:
        """What the slowest tenth of the calls spent their time on."""
        asynchronous = any(cause.startswith("waiting") for call in self.calls for cause, _ in call.causes)
        hidden = self.loop is None and asynchronous
        return attribute(self.calls, ["on this event loop it cannot be seen who kept it busy"] if hidden else [])

    def call_sync(self, body: Callable[[], object]) -> None:
        """Trace one call of a synchronous body."""
        call, step = Call(), _Step(self)
        body()
        step.end(call)
        self.calls.append(call)

    async def call(self, body: Callable[[], Awaitable[object]]) -> None:
        """Trace one call of an asynchronous body, in the calling task."""
        call = Call()

        async def whole() -> None:
            await body()

        await self._drive(whole(), call)
        self.calls.append(call)

    @types.coroutine
    def _drive(self, coroutine: Coroutine[Any, Any, None], call: Call) -> Generator[Any, Any, None]:
        """Drive a coroutine by hand, and see at each suspension what it waits for."""
        value, error = None, None
        while True:
            step = _Step(self)
            try:
                awaited = coroutine.send(value) if error is None else coroutine.throw(error)
            except StopIteration:
                return
            finally:
                step.end(call)
            wait = _Wait(self, coroutine, awaited)
            value, error = None, None
            try:
                value = yield awaited
            except BaseException as thrown:  # into the coroutine with it, whatever it is
                error = thrown
            wait.end(call)


class _Step:
    """The stretch from one suspension to the next, in which the body itself runs."""

    __slots__ = ("_begun", "_cpu", "_gc", "_mark", "_tracer")

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._gc = tracer.gc_s
        self._mark = tracer.clock.start()
        self._begun, self._cpu = perf_counter(), thread_time()

    def end(self, call: Call) -> None:
        """Say what the time went to."""
        cpu_s, wall_s = thread_time() - self._cpu, perf_counter() - self._begun
        machine_s = self._tracer.clock.lost_s(self._mark, wall_s)
        gc_s = self._tracer.gc_s - self._gc
        off_s = max(0.0, wall_s - cpu_s)  # without a core: somebody else had it, or nothing was to be done
        call.add(MACHINE, machine_s)
        call.add(BLOCKED, off_s - machine_s)
        call.add(GC, gc_s)
        call.add(OWN_CPU, cpu_s - gc_s - max(0.0, machine_s - off_s))
        call.seconds += wall_s  # between two stretches the tracer itself is at work, which is no part of the call


class _Wait:
    """The stretch in which the body waits."""

    __slots__ = ("_begun", "_kind", "_late", "_loop", "_mark", "_ready", "_tracer", "_where")

    def __init__(self, tracer: Tracer, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._mark, self._begun = tracer.clock.start(), perf_counter()
        self._tracer, self._loop = tracer, tracer.loop
        self._kind, self._where = waiting_for(frames_behind(coroutine))  # the wait goes on meanwhile
        self._ready, self._late = 0.0, (0.0, "")
        if self._loop is None:
            return
        if awaited is None:  # a bare ``yield``: it is ready at once, and waits only for its turn
            self._ready = self._begun = perf_counter()
        elif callable(told := getattr(awaited, "add_done_callback", None)):
            told(self._done)

    def _done(self, _future: object) -> None:
        if not self._ready and self._loop is not None:
            self._ready, self._late = perf_counter(), self._loop.late()

    def end(self, call: Call) -> None:
        """Say what the time went to."""
        now = perf_counter()
        call.seconds += now - self._begun
        ready = self._ready or now
        waited_s, (late_s, culprit) = ready - self._begun, self._late
        # Whoever waits for a lock waits for its owner, also while the owner keeps the loop busy.
        late_s = 0.0 if self._kind == LOCK else min(waited_s, late_s)
        call.add(self._kind, waited_s - late_s, self._where)
        if self._loop is None:
            return
        queued_s = now - ready + late_s
        machine_s = min(queued_s, self._tracer.clock.lost_s(self._mark, now - self._begun))
        call.add(MACHINE, machine_s)
        call.add(LOOP_QUEUE, queued_s - machine_s, culprit or self._loop.longest())


class _LoopWatch:
    """Sees when asyncio's selector loop is busy, and with whose callback."""

    def __init__(self) -> None:
        self._selector: Any = _selector()
        self._select = self._selector.select
        self._run = Handle._run
        self._turn_s = self._before_s = 0.0
        self._turn_begun = perf_counter()
        # Of this turn and the two before: whoever kept a timer waiting ran a turn before the timer did, and the
        # timer a turn before the task it wakes.
        self._longest: deque[tuple[float, str]] = deque([(0.0, "")], maxlen=3)
        self._was_idle = True

    def install(self) -> None:
        """Watch from now on."""
        run = self._run

        def watched_run(handle: Handle) -> None:
            begun = perf_counter()
            run(handle)
            took_s = perf_counter() - begun
            if took_s > self._longest[-1][0]:
                self._longest[-1] = took_s, _name(handle)

        self._selector.select = self._watched_select
        Handle._run = watched_run  # type: ignore[assignment, method-assign] # what asyncio's own debug mode wraps

    def remove(self) -> None:
        """Watch no longer."""
        del self._selector.select
        Handle._run = self._run  # type: ignore[method-assign]

    def _watched_select(self, timeout: float | None = None) -> Any:
        begun = perf_counter()
        self._before_s = 0.0 if self._was_idle else self._turn_s
        self._turn_s = begun - self._turn_begun
        self._longest.append((0.0, ""))
        events = self._select(timeout)
        self._turn_begun = perf_counter()
        self._was_idle = self._turn_begun - begun > _IDLE_S
        return events

    def late(self) -> tuple[float, str]:
        """For how long, at the most, what is told now has been ready, and whose callback ran the longest meanwhile."""
        late_s = self._before_s + self._turn_s + perf_counter() - self._turn_begun
        return late_s, self.longest()

    def longest(self) -> str:
        """Whose callback ran the longest lately."""
        return max(self._longest)[1]


def _selector() -> Any:
    """The selector of the running loop; None of uvloop, which has none to show."""
    return getattr(asyncio.get_running_loop(), "_selector", None)


def _name(handle: Handle) -> str:
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if not isinstance(owner, asyncio.Task):
        return str(getattr(callback, "__qualname__", type(callback).__qualname__))
    coroutine: Any = owner.get_coro()
    name = str(getattr(coroutine, "__qualname__", owner.get_name())).replace("<locals>.", "")
    return f"behind task {owner.get_name()!r}, {name}"


_MOST_CALLS = 50
_MOST_S = 2.0


class Unrepeatable(Exception):
    """The body raised while it was traced, so nothing can be said."""


def explain_sync(body: Callable[[], object], clock: Clock) -> Attribution:
    """Trace a synchronous body some fifty times, for two seconds at the most.

    Raises:
        Unrepeatable: it raised.
    """
    with Tracer(clock) as tracer:
        for _ in _turns():
            try:
                contextvars.copy_context().run(tracer.call_sync, body)
            except Exception as error:
                raise Unrepeatable(f"{type(error).__name__}: {error}") from error
    return tracer.attribution()


async def explain_async(body: Callable[[], Awaitable[object]], clock: Clock, concurrency: int = 1) -> Attribution:
    """Trace an asynchronous body, so many runs in flight at once, each in a task of its own.

    Args:
        body: what has missed its budget.
        clock: tells what the machine added.
        concurrency: as it was when it did.

    Raises:
        Unrepeatable: it raised.
    """
    errors: list[BaseException] = []

    async def again_and_again() -> None:
        for _ in turns:
            with caught(errors):
                await in_own_task(lambda: tracer.call(body))
            if errors:
                return

    turns = _turns(max(_MOST_CALLS, 3 * concurrency))
    with Tracer(clock) as tracer, interruption_unwrapped():
        async with anyio.create_task_group() as tasks:
            for _ in range(concurrency):
                tasks.start_soon(again_and_again)
    if errors:
        raise Unrepeatable(f"{type(errors[0]).__name__}: {errors[0]}") from errors[0]
    return tracer.attribution()


def _turns(most: int = _MOST_CALLS) -> Iterator[int]:
    deadline = perf_counter() + _MOST_S
    for number in range(most):
        if number and perf_counter() > deadline:
            return
        yield number
