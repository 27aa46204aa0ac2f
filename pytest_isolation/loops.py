"""Which event loop runs: the little that anyio leaves open."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb


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


def from_signal(error: BaseException) -> bool:
    """An exception that the handler of a signal raised: it interrupts whatever code was running, and is not its own."""
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()} - {None}
    return bool(handlers) and any(frame.f_code in handlers for frame, _ in walk_tb(error.__traceback__))
