"""Watches what a backend lends that is made for one run of an exploration."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from pytest_isolation.phases.exploration import open_fresh
from pytest_isolation.targets.pools import Watch
from pytest_isolation.users.lendings import Lendings

# What comes back by itself is waited for; the clock is ours, so that this takes no time.
_TURNS, _STEPS, _STEP_S = 3, 100, 0.01


def watched(open_backend: Callable[[], Any], lendings: Lendings) -> Callable[[], AbstractAsyncContextManager[object]]:
    """Opens the same backend, and watches what it lends while it is open; what went wrong is in ``lendings.told``.

    Args:
        open_backend: gives a backend, an awaitable of one, or a context manager.
        lendings: of the test.
    """

    @asynccontextmanager
    async def open_watched() -> AsyncIterator[object]:
        lendings.told, before = (), [*lendings.pools]
        async with AsyncExitStack() as stack:
            backend = await open_fresh(open_backend, stack)
            with Watch(lendings) as watch:
                watch.follow(backend)
                lendings.begin(is_first=False, phase="exploration", is_fresh=True)
                try:
                    yield backend
                    await _settle(lendings)
                finally:
                    lendings.end()
                    lendings.forget([pool for pool in lendings.pools if pool not in before])

    return open_watched


async def _settle(lendings: Lendings) -> None:
    for turn in range(_TURNS + _STEPS):
        if not lendings.are_lent:
            break
        if turn == _TURNS:
            gc.collect()
        await asyncio.sleep(_STEP_S if turn >= _TURNS else 0)
    await lendings.look_around_async()
