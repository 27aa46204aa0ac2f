"""Made once, when it is first needed: whoever comes first, however many come, and whatever becomes of the first one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from time import perf_counter
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Awaits a factory at the first call and hands out what it made ever after.

    The factory runs in a task of its own: a first caller who is cancelled takes nothing from those who wait with it.
    The task has an empty Context, so that nothing of the first user's gets into what all users share. A failure is
    everybody's who waits, and is forgotten: the next caller tries again.

    Args:
        factory: makes the thing.

    Attributes:
        seconds: how long the making took, None before.
    """

    __slots__ = ("_factory", "_made", "_task", "seconds")

    def __init__(self, factory: Callable[[], Awaitable[T]]) -> None:
        self._factory = factory
        self._made: tuple[T] | None = None
        self._task: asyncio.Task[T] | None = None
        self.seconds: float | None = None

    async def __call__(self) -> T:
        """What the factory made.

        Raises:
            RuntimeError: it was closed in the meantime.
            Exception: whatever the factory raised.
        """
        if self._made is not None:
            return self._made[0]
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._make(), context=Context())
            self._task.add_done_callback(self._forget)
        task = self._task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise RuntimeError("it was closed while it was being made") from None
            raise

    @property
    def is_made(self) -> bool:
        """The factory has done its work."""
        return self._made is not None

    async def aclose(self) -> None:
        """Stop a factory that is still at work, and forget what was made; the next call makes it anew."""
        task, self._task, self._made = self._task, None, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _make(self) -> T:
        begun = perf_counter()
        made = await self._factory()
        self.seconds = perf_counter() - begun
        self._made = (made,)
        return made

    def _forget(self, task: asyncio.Task[T]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled():
            task.exception()  # those who waited have it; if nobody did any more, it is nobody's
