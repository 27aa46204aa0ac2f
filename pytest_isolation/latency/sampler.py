"""Runs a body until its budgets are decided: a task and a Context of its own for each sample, the clock inside.

What to do next is a generator that knows no event loop (``course``); a thin shell each for synchronous bodies, for
asynchronous ones and for paced arrivals does it. A loop in one task would carry ContextVars from sample to sample.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType

import anyio

from pytest_isolation.awaited import refuse_awaitable, refuse_unawaited
from pytest_isolation.latency.decide import Step
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.loops import interruption_unwrapped, on_asyncio


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a body is sampled.

    Attributes:
        seconds: no new sample after this time.
        samples: the body is run at most this often.
        warm_up: runs before the first sample.
        pause_s: between a suspected failure and the run that is to confirm it.
        blind: give up after so many runs in which a judged span was not entered once.
    """

    seconds: float = 1.0
    samples: int = 2000
    warm_up: int = 5
    pause_s: float = 0.25
    blind: int = 20


def course(ledger: Ledger, limits: Limits) -> Iterator[Step]:
    """What to do next, until everything is decided or a limit is reached.

    The caller does it and adds what it measured to the ledger before it asks again. Every suspected failure earns a
    confirming run with limits of its own.
    """
    begun = perf_counter()
    for _ in range(limits.warm_up):
        yield Step.SAMPLE
        if ledger.measured:
            return
        if perf_counter() - begun > limits.seconds / 2:
            break
    ledger.clear()
    taken, cap, deadline = 0, limits.samples, perf_counter() + limits.seconds
    while (step := ledger.step) is not Step.STOP:
        if step is Step.CONFIRM:
            yield step
            ledger.confirm()
            cap, deadline = taken + max(limits.samples, taken), perf_counter() + limits.seconds
        elif taken >= cap or perf_counter() >= deadline or (taken == limits.blind and ledger.blind):
            return
        else:
            yield step
            taken += 1


def sample_sync(body: Callable[[], object], ledger: Ledger, limits: Limits) -> None:
    """Sample a synchronous body, each time in a copy of the current Context."""

    def run() -> None:
        start = perf_counter()
        value = body()
        seconds = perf_counter() - start
        _take(ledger, value, seconds)

    for index, step in enumerate(course(ledger, limits)):
        if step is Step.CONFIRM:
            gc.collect()
            time.sleep(limits.pause_s)
        else:
            with _nth_run(index):
                contextvars.copy_context().run(run)


async def sample_async(body: Callable[[], Awaitable[object]], ledger: Ledger, limits: Limits) -> None:
    """Sample an asynchronous body, one run after another, each in a task of its own."""

    async def run() -> None:
        start = perf_counter()
        value = await body()
        seconds = perf_counter() - start
        _take(ledger, value, seconds)

    for index, step in enumerate(course(ledger, limits)):
        if step is Step.CONFIRM:
            gc.collect()
            await anyio.sleep(limits.pause_s)
        else:
            with _nth_run(index):
                await _in_own_task(run)


async def sample_paced(body: Callable[[], Awaitable[object]], ledger: Ledger, limits: Limits, rate: float) -> None:
    """Sample an asynchronous body in an open model: arrivals are fixed beforehand and wait for nobody.

    Latency counts from the moment at which a run was due, so a backend that stalls cannot hide behind requests that
    were never sent (coordinated omission; Tene, *How NOT to measure latency*).

    Args:
        body: run once for every arrival, in a task of its own.
        ledger: where samples go.
        limits: how far it is sampled.
        rate: arrivals a second.
    """
    errors: list[BaseException] = []

    async def run(index: int, due: float) -> None:
        with _caught(errors), _nth_run(index):
            value = await body()
            seconds = perf_counter() - due
            _take(ledger, value, seconds)
        if errors:
            tasks.cancel_scope.cancel()

    steps, index = course(ledger, limits), 0
    while True:
        pause, start, arrived = False, perf_counter(), 0
        with interruption_unwrapped():
            async with anyio.create_task_group() as tasks:
                for step in steps:
                    if pause := step is Step.CONFIRM:
                        break
                    due = start + arrived / rate
                    await anyio.sleep(max(0.0, due - perf_counter()))
                    tasks.start_soon(run, index, due)
                    index, arrived = index + 1, arrived + 1
        if errors:
            raise errors[0]
        if not pause:
            return
        gc.collect()
        await anyio.sleep(limits.pause_s)


def _take(ledger: Ledger, value: object, seconds: float) -> None:
    """Take the body's time as a sample, unless it recorded its own."""
    if value is not None:
        refuse_awaitable(value)
    if not ledger.self_timed:
        ledger.add(seconds)


def _nth_run(index: int) -> AbstractContextManager[None]:
    """Watch the first run for coroutines that nobody awaits; say of later ones that earlier ones went well."""
    return refuse_unawaited() if index == 0 else _Repeated(index)


class _Repeated:
    """A class, because a generator would cost a tenth of a short sample."""

    __slots__ = ("_index",)

    def __init__(self, index: int) -> None:
        self._index = index

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            error.add_note(
                f"pytest-isolation: this was run {self._index + 1} of the body; the runs before it went well. @latency "
                "repeats the body with the same fixtures: make it repeatable, or time the part that is with "
                "`await latency.measure(part)`."
            )


async def _in_own_task(run: Callable[[], Awaitable[None]]) -> None:
    if on_asyncio():
        # A third of the price of a task group, and cancellation passes through an awaited task by itself.
        await asyncio.get_running_loop().create_task(run())  # type: ignore[arg-type]
        return
    errors: list[BaseException] = []

    async def caught() -> None:
        with _caught(errors):
            await run()

    with interruption_unwrapped():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caught)
    if errors:
        raise errors[0]


@contextmanager
def _caught(errors: list[BaseException]) -> Iterator[None]:
    """Keep what a body raises out of the task group, which would wrap it: the user is to see it plain."""
    try:
        yield
    except (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # pytest's own outcomes are BaseExceptions
        errors.append(error)
