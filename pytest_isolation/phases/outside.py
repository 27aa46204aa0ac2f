"""Who waits for something from outside of the loop: an answer over a socket, the end of a child process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

from pytest_isolation.phases.interleaving import TEST
from pytest_isolation.phases.left import worker
from pytest_isolation.phases.waiting import behind

# In 3.11 a thread waits for each child process; later its end is watched like a socket.
_WAITS_FOR_CHILD = "waitpid-"
# Only a timer ends the first, only other tasks the second; whoever waits for another task is looked at there.
_INSIDE = frozenset({asyncio.sleep.__code__, asyncio.tasks._wait.__code__})  # type: ignore[attr-defined]
# Only whoever holds one can end the wait for it. An event or a queue may be filled by a protocol.
_HELD = (asyncio.Lock, asyncio.Semaphore)


def have_children() -> bool:
    """A child process is alive for whose end a thread waits."""
    return any(_WAITS_FOR_CHILD in thread.name for thread in threading.enumerate())


def is_awaited(tasks: Iterable[asyncio.Task[Any]]) -> bool:
    """Somebody may go on only when something comes from outside.

    What goes on in the background, such as whoever listens on a connection for all, is not asked: it always waits.

    Args:
        tasks: all of a run. Of them those of users who have not ended count, or else the one that opens the backend.
    """
    users = [task for task in tasks if (user := worker(task)) is not None and not user._is_told]
    return any(map(_waits_outside, users or [task for task in tasks if task.get_name() == TEST]))


def _waits_outside(task: asyncio.Task[Any]) -> bool:
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None or isinstance(waiter, asyncio.Task):
        return False
    last: Any = None
    awaited: Any = task.get_coro()
    while awaited is not None:
        last = next((f for name in ("cr_frame", "gi_frame", "ag_frame") if (f := getattr(awaited, name, None))), last)
        awaited = behind(awaited)
    is_held = last is not None and isinstance(last.f_locals.get("self"), _HELD)
    return last is None or not (last.f_code in _INSIDE or is_held)
