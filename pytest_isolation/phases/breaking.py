"""Breaks off what a coroutine waits for: where that can be, and how the coroutine learns of it.

To raise an exception where it waits would be half of the truth: a driver that asks its connection whether it is still
there, before it lends it again, would be told that it is, and be accused of what then comes over it. So a connection is
broken as the peer would break it, and whoever waits learns of that from its transport, or when it reads.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from types import CodeType, FrameType
from typing import Any, NoReturn

from pytest_isolation.loops import on_asyncio

# What clients call the way to their socket; each may stand for an object that has one itself.
_CALLED = ("_transport", "transport", "_writer", "writer", "_stream", "_sock")
_DEEPEST = 3
# Nothing arrives from outside where one of these waits, so nothing of it can break off.
_NO_IO = (
    *(f"asyncio/{name}.py" for name in ("locks", "queues", "tasks", "timeouts", "runners", "taskgroups")),
    *(f"trio/{name}.py" for name in ("_sync", "_channel", "_timeouts", "_core/_parking_lot", "_core/_run")),
)
# Whatever waits on trio waits in here; what it waits for shows in what called it.
_TRAPS = "trio/_core/_traps.py"
# Here both are in one file; what waits for data waits for an event that the protocol sets.
_ANYIO, _EVENT = "anyio/_backends/_asyncio.py", "asyncio/locks.py"
_ANYIO_NO_IO = frozenset(
    ("__aexit__", "acquire", "acquire_on_behalf_of", "wait", "sleep", "checkpoint", "cancel_shielded_checkpoint")
)


def from_outside(codes: Sequence[CodeType]) -> bool:
    """What a coroutine waits for may come from outside: from a socket, a thread or a process.

    Args:
        codes: of the functions that wait, the innermost first.
    """
    files = [(code.co_filename.replace("\\", "/"), code.co_name) for code in codes]
    files = [one for one in files if not one[0].endswith(_TRAPS)]
    if not files:
        return False
    (leaf, name), callers = files[0], files[1:]
    if leaf.endswith(_EVENT) and callers and callers[0][0].endswith(_ANYIO):
        leaf, name = callers[0]
    if leaf.endswith(_ANYIO):
        return name not in _ANYIO_NO_IO
    return not leaf.endswith(_NO_IO)


def is_idle(awaited: object) -> bool:
    """A task waits for nothing, and only lets others have their turn.

    Args:
        awaited: what it gave to the event loop.
    """
    return awaited is None if on_asyncio() else _take_back_of(awaited) is None


def break_off(frames: Iterable[FrameType], error: Exception) -> bool:
    """Break the first connection off that is found.

    Args:
        frames: of the functions that wait, the innermost first.
        error: what a transport is told.

    Returns:
        Whether there was one.
    """
    return any(_break_one(frame.f_locals, error) for frame in frames)


def take_back(awaited: object, error: Exception, raised: Callable[[], None]) -> bool:
    """Have trio forget what a task has just begun to wait for, so that something else can be raised there.

    A wait on trio takes itself back when it is told to, as it is when the task is cancelled. Some do not, as that for a
    thread, and some of these raise what they are given later.

    Args:
        awaited: what the task gave to trio.
        error: what will be raised.
        raised: is called if it has been raised after all.

    Returns:
        Whether nothing will wake the task up any more.
    """
    told = _take_back_of(awaited)

    def raise_it() -> NoReturn:
        raised()
        raise error

    return told is not None and told(raise_it).name == "SUCCEEDED"


def _take_back_of(awaited: object) -> Callable[[Callable[[], NoReturn]], Enum] | None:
    return getattr(awaited, "abort_func", None)


def _break_one(names: Mapping[str, Any], error: Exception) -> bool:
    for name, value in [*names.items()]:
        if name == "fileno" and type(value) is int:
            return _shut(value)
        if (name == "self" or name in _CALLED) and _break(value, error):
            return True
    return False


def _break(value: Any, error: Exception, depth: int = 0) -> bool:
    if isinstance(value, asyncio.Transport):
        if hasattr(value, "_force_close"):  # what a transport of asyncio does when its socket fails
            value._force_close(error)
        else:
            value.abort()
        return True
    if isinstance(value, socket.socket):
        return _shut(value.fileno())
    if value is None or depth == _DEEPEST:
        return False
    return any(_break(getattr(value, name, None), error, depth + 1) for name in _CALLED)


def _shut(descriptor: int) -> bool:
    """Have whoever reads or writes there meet the end; of a socket that listens others are served too."""
    with suppress(OSError):  # it is none of a connection, or was closed meanwhile
        same = os.dup(descriptor)
        try:
            connection = socket.socket(fileno=same)
        except OSError:
            os.close(same)
            return False
        with connection:
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return False
            connection.shutdown(socket.SHUT_RDWR)
        return True
    return False
