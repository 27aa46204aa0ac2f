"""Runs a body until its budgets are decided: a task and a Context of its own for each sample, the clock inside.

What to do next is a generator that knows no event loop (``course``); a thin shell each for synchronous and for
asynchronous bodies does it, and ``arrivals`` has those for several at once. A loop in one task would carry
ContextVars from sample to sample.
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
from pytest_isolation.latency.decide import Step, next_step
from pytest_isolation.latency.spans import BODY, Ledger
from pytest_isolation.loops import interruption_unwrapped, on_asyncio

_WORD_S = 0.5
_NAME = "a sample of latency"
_SAMPLE, _CONFIRM, _STOP = Step.SAMPLE, Step.CONFIRM, Step.STOP


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a body is sampled.

    Attributes:
        seconds: no new sample after this time.
        samples: the body is run at most this often.
        warm_up: runs before the first sample.
        pause_s: between a suspected failure and the run that is to confirm it.
        blind: give up after so many runs in which a judged span was not entered once.
        patience: where every sample so far is over, go on to prove it for so many times the seconds.
        tell: is told how it goes, twice a second, and not by a test that takes less than one; None tells nobody.
    """

    seconds: float = 1.0
    samples: int = 2000
    warm_up: int = 5
    pause_s: float = 0.25
    blind: int = 20
    patience: float = 5.0
    tell: Callable[[str], None] | None = None


class Course:
    """When to stop: once all is decided, or at a limit; a suspected failure earns a confirming run with its own limits.

    Args:
        ledger: what has been measured.
        limits: how far to go.

    Attributes:
        begun: how many runs have begun since the warm-up.
        ended: how many of them have ended, so that the ledger has their samples.
    """

    __slots__ = ("_cap", "_deadline", "_ledger", "_limits", "_next_word", "_sighted", "begun", "ended")

    def __init__(self, ledger: Ledger, limits: Limits) -> None:
        self._ledger = ledger
        self._limits = limits
        self._cap = limits.samples
        self._deadline = perf_counter() + limits.seconds
        self._next_word = perf_counter() + 2 * _WORD_S
        self._sighted = False
        self.begun = self.ended = 0

    @property
    def step(self) -> Step:
        """What to do next."""
        step = next_step(self._ledger.gates)
        now = perf_counter()
        if now > self._next_word and self._limits.tell is not None:
            self._next_word = now + _WORD_S
            self._limits.tell(self._ledger.outlook)
        if step is not _SAMPLE:
            return step
        is_late = now >= self._deadline and self._is_late(now - self._deadline)
        if is_late or self.begun >= self._cap or not (self._sighted or self._is_sighted()):
            return Step.STOP
        return step

    def _is_late(self, late_s: float) -> bool:
        return not (self._ledger.is_hopeless and late_s < self._limits.seconds * (self._limits.patience - 1))

    def _is_sighted(self) -> bool:
        """No judged span is still waited for; for the first runs that is not asked."""
        if self.ended >= self._limits.blind:
            self._sighted = not self._ledger.blind
            return self._sighted
        return True

    def confirm(self) -> None:
        """Begin the confirming run; the caller has paused."""
        self._ledger.confirm()
        self._cap = self.begun + max(self._limits.samples, self.begun)
        self._deadline = perf_counter() + self._limits.seconds


def course(ledger: Ledger, limits: Limits) -> Iterator[Step]:
    """What to do with one run after another; the caller does it before it asks again."""
    for _ in warm_up(limits):
        yield Step.SAMPLE
        if ledger.measured:
            return
    ledger.clear()
    rest = Course(ledger, limits)
    while (step := rest.step) is not _STOP:
        yield step
        if step is _CONFIRM:
            rest.confirm()
        else:
            rest.begun = rest.ended = rest.begun + 1


def warm_up(limits: Limits) -> Iterator[int]:
    """The runs before the first sample; fewer where they take too long."""
    begun = perf_counter()
    for number in range(limits.warm_up):
        if number and perf_counter() - begun > limits.seconds / 2:
            return
        yield number


def sample_sync(body: Callable[[], object], ledger: Ledger, limits: Limits, span: str | None = BODY) -> None:
    """Sample a synchronous body, each time in a copy of the current Context.

    Args:
        body: what is timed.
        ledger: where samples go.
        limits: how far it is sampled.
        span: the part that the body is.
    """
    clock = ledger.clock

    def run() -> None:
        mark = clock.start()
        start = perf_counter()
        value = body()
        seconds = perf_counter() - start
        take(ledger, value, seconds, clock.lost_here_s(mark, seconds), span)

    for index, step in enumerate(course(ledger, limits)):
        if step is Step.CONFIRM:
            gc.collect()
            time.sleep(limits.pause_s)
        else:
            with nth_run(index):
                contextvars.copy_context().run(run)


async def sample_async(
    body: Callable[[], Awaitable[object]], ledger: Ledger, limits: Limits, span: str | None = BODY
) -> None:
    """Sample an asynchronous body, one run after another, each in a task of its own.

    Args:
        body: what is timed.
        ledger: where samples go.
        limits: how far it is sampled.
        span: the part that the body is.
    """
    clock = ledger.clock

    async def run() -> None:
        mark = clock.start()
        start = perf_counter()
        value = await body()
        seconds = perf_counter() - start
        machine_s = clock.lost_here_s(mark, seconds)
        if value is None and not ledger.self_timed and not ledger.measured:
            ledger.add(seconds, span, machine_s)  # as take() does, whose call costs something
        else:
            take(ledger, value, seconds, machine_s, span)

    steps, index = course(ledger, limits), 0
    # A task factory may do anything with a task; and the first run is watched.
    is_plain = on_asyncio() and asyncio.get_running_loop().get_task_factory() is None
    step = next(steps, _STOP)
    while step is not _STOP:
        if step is _CONFIRM:
            gc.collect()
            await anyio.sleep(limits.pause_s)
            step = next(steps, _STOP)
        elif is_plain and index:
            chain = _Chain(run, steps, index, loop=asyncio.get_running_loop())
            step = await chain
            index = chain.index
        else:
            with nth_run(index):
                await in_own_task(run)
            index += 1
            step = next(steps, _STOP)


class _Chain(asyncio.Future[Step]):
    """Samples one after another in tasks of their own, each of which begins the next one, until something else is due.

    It saves a turn of the event loop for every sample, a fifth of what a sample costs. Whoever awaits it notices no
    difference to awaiting each task: an exception comes through, and a cancellation goes to the task that is running.

    Args:
        run: takes a sample.
        steps: says what is next.
        index: how many runs there were before.
        loop: the running one, of asyncio.

    Attributes:
        index: how many there are now.
    """

    def __init__(
        self, run: Callable[[], Awaitable[None]], steps: Iterator[Step], index: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(loop=loop)
        self.index = index
        self._run = run
        self._steps = steps
        self._context = contextvars.copy_context()
        self._begin()

    def _begin(self) -> None:
        # The loop holds only a weak reference.
        self._task = asyncio.Task(self._link(), loop=self.get_loop(), name=_NAME, context=self._context.copy())

    async def _link(self) -> None:
        try:
            try:
                await self._run()
            except Exception as error:
                say_repeated(error, self.index)
                raise
            self.index += 1
            step = next(self._steps, _STOP)
        except asyncio.CancelledError:
            super().cancel()
            raise
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as error:  # pytest's own outcomes are BaseExceptions
            self.set_exception(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise  # the loop ends by it
        else:
            if step is _SAMPLE:
                self._begin()
            else:
                self.set_result(step)

    def cancel(self, msg: object = None) -> bool:
        """Cancel the task that is running; if it ends by that, so does the chain."""
        return self._task.cancel(msg)


def take(ledger: Ledger, value: object, seconds: float, machine_s: float | None, span: str | None = BODY) -> None:
    """Take the time of a run as a sample, unless the body recorded its own or sampled a part of itself."""
    if value is not None:
        refuse_awaitable(value)
    if not (ledger.self_timed or ledger.measured):
        ledger.add(seconds, span, machine_s)


def nth_run(ended: int) -> AbstractContextManager[None]:
    """Watch the first run for coroutines that nobody awaits; say of later ones that earlier ones went well."""
    return Repeated(ended) if ended else refuse_unawaited()


class Repeated:
    """Says of a run that raises how many went well before.

    A class, because a generator would cost a tenth of a short sample.
    """

    __slots__ = ("_ended",)

    def __init__(self, ended: int) -> None:
        self._ended = ended

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            say_repeated(error, self._ended)


def say_repeated(error: Exception, ended: int) -> None:
    """Say in an error that so many runs went well before."""
    error.add_note(
        f"pytest-isolation: {ended} run{'s' if ended > 1 else ''} of the body ended well before this one failed. "
        "@latency repeats the body with the same fixtures: make it repeatable, or time the part that is with "
        "`await latency.measure(part)`, in a sync test `latency.measure_sync(part)`."
    )


async def in_own_task(run: Callable[[], Awaitable[None]]) -> None:
    """Run in a task and a Context of its own, and let its exceptions through as they are."""
    if on_asyncio():
        # Cancellation passes through an awaited task by itself.
        await asyncio.get_running_loop().create_task(run())  # type: ignore[arg-type]
        return
    errors: list[BaseException] = []

    async def run_caught() -> None:
        with caught(errors):
            await run()

    with interruption_unwrapped():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_caught)
    if errors:
        raise errors[0]


@contextmanager
def caught(errors: list[BaseException]) -> Iterator[None]:
    """Keep what a body raises out of the task group, which would wrap it: the user is to see it plain."""
    try:
        yield
    except (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # pytest's own outcomes are BaseExceptions
        errors.append(error)
