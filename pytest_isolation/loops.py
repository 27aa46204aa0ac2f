"""Which event loop runs: the little that anyio leaves open."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import anyio

SERVED: set[asyncio.AbstractEventLoop] = set()
"""The loops of applications that are served in this process, each in a thread of its own."""


def on_asyncio() -> bool:
    """The caller is a task of asyncio, and not of trio."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def uncontrollable(*makers: object) -> str | None:
    """Why the loops that these policies and factories make cannot be controlled; None if they can."""
    policy: Any = getattr(asyncio.events, "_get_event_loop_policy", None) or asyncio.get_event_loop_policy
    for maker in (policy(), *makers):
        module = getattr(maker, "__module__", None) or type(maker).__module__
        if module.partition(".")[0] in ("uvloop", "winloop"):
            return (
                f"this test session runs on {module.partition('.')[0]}, which is written in C and keeps its queue to "
                "itself: schedules are explored on asyncio's own loop, and would say nothing of that one"
            )
    return None


def in_async_code() -> bool:
    """The caller is a task, of asyncio or of trio."""
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True


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


@contextmanager
def lost_errors_ignored() -> Iterator[None]:
    """Let nobody hear of exceptions that nobody retrieved, of futures that are made in the block and gone by its end.

    Who is cut leaves futures behind that nobody waits for any more; drivers of databases then set an exception on them,
    and some test runners fail a test for that.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        yield
        return
    tell, promoted = loop.call_exception_handler, gc.get_stats()[1]["collections"]

    def hear(context: dict[str, Any]) -> None:
        if not context.get("message", "").endswith("exception was never retrieved"):
            tell(context)

    # The handler itself is the scenario's own to set.
    loop.call_exception_handler = hear  # type: ignore[method-assign]
    try:
        yield
    finally:
        # What is young is found soon; only what has been promoted meanwhile takes a look at everything.
        gc.collect(1 if gc.get_stats()[1]["collections"] == promoted else 2)
        loop.call_exception_handler = tell  # type: ignore[method-assign]
