"""Which event loop runs: the little that anyio leaves open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


def on_asyncio() -> bool:
    """The caller is a task of asyncio, and not of trio."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


@contextmanager
def interruption_unwrapped() -> Iterator[None]:
    """Let Ctrl-C leave a task group as what it is: in a group of exceptions pytest would take it for a failure."""
    try:
        yield
    except BaseExceptionGroup as group:
        interruption: BaseException | None = group.subgroup((KeyboardInterrupt, SystemExit))
        while isinstance(interruption, BaseExceptionGroup):
            interruption = interruption.exceptions[0]
        if interruption is None:
            raise
        raise interruption from None
