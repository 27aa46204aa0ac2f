"""Runs an old and a new version in turn, each call in a task (or a copy of the Context) of its own.

Whose turn it is comes from a generator that knows no event loop; a thin shell for either kind of function does it.
"""

from __future__ import annotations

import contextvars
import gc
from collections.abc import Awaitable, Callable, Generator
from time import perf_counter

from pytest_isolation.awaited import refuse_awaitable
from pytest_isolation.latency.noise import Clock
from pytest_isolation.latency.paired import Pairs, turns
from pytest_isolation.latency.sampler import Limits, in_own_task, nth_run, warm_up

_MOST_PAIRS = 1000
# Of short calls a pair takes the medians of several, for about this time: they scatter less than the calls do.
_PAIR_S = 0.02
_MOST_CALLS = 15


def _course(pairs: Pairs, limits: Limits) -> Generator[bool, float, None]:
    """Whether it is the new one's turn; it is sent how long that took, and takes pairs of it until all is proven."""
    shortest_s = _PAIR_S
    for _ in warm_up(limits):
        first = yield False
        second = yield True
        shortest_s = min(shortest_s, max(first + second, _PAIR_S / _MOST_CALLS))
    calls = int(_PAIR_S / shortest_s)
    gc.collect()
    deadline = perf_counter() + limits.seconds
    old_s: list[float] = []
    new_s: list[float] = []
    for new_first in turns(min(_MOST_PAIRS, limits.samples // 2) * calls):
        first = yield new_first
        second = yield not new_first
        old_s.append(second if new_first else first)
        new_s.append(first if new_first else second)
        if len(old_s) == calls:
            pairs.add_calls(old_s, new_s)
            old_s.clear()
            new_s.clear()
            if pairs.is_slower or perf_counter() > deadline:
                return


def compare_sync(
    old: Callable[[], object], new: Callable[[], object], pairs: Pairs, limits: Limits, clock: Clock
) -> None:
    """Compare two synchronous functions until the new one is proven slower, or a limit is reached.

    Args:
        old: what the new one is compared with.
        new: what is judged.
        pairs: where latencies go.
        limits: how far; two of its samples are a pair.
        clock: tells what the machine added.
    """

    def timed(function: Callable[[], object]) -> float:
        mark = clock.start()
        begun = perf_counter()
        value = function()
        seconds = perf_counter() - begun
        refuse_awaitable(value)
        return seconds - clock.lost_s(mark, seconds)

    course, number = _course(pairs, limits), 0
    is_new = next(course)
    while True:
        with nth_run(number // 2):
            seconds = contextvars.copy_context().run(timed, new if is_new else old)
        number += 1
        try:
            is_new = course.send(seconds)
        except StopIteration:
            return


async def compare_async(
    old: Callable[[], Awaitable[object]],
    new: Callable[[], Awaitable[object]],
    pairs: Pairs,
    limits: Limits,
    clock: Clock,
) -> None:
    """Compare two asynchronous functions, as ``compare_sync`` does with others."""
    seconds, is_new = 0.0, False

    async def timed() -> None:
        nonlocal seconds
        function = new if is_new else old
        mark = clock.start()
        begun = perf_counter()
        value = await function()
        whole = perf_counter() - begun
        refuse_awaitable(value)
        seconds = whole - clock.lost_s(mark, whole)

    course, number = _course(pairs, limits), 0
    is_new = next(course)
    while True:
        with nth_run(number // 2):
            await in_own_task(timed)
        number += 1
        try:
            is_new = course.send(seconds)
        except StopIteration:
            return
