"""Breaks the connection that a coroutine waits for off, as it is when the peer has reset it.

To raise an exception where it waits would be half of the truth: a driver that asks its connection whether it is still
there, before it lends it again, would be told that it is, and be accused of what then comes over it. So whoever waits
learns of it as of any other break: from its transport, or when it reads.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import Enum
from types import FrameType
from typing import Any, NoReturn

# What clients call the way to their socket; each may stand for an object that has one itself.
_CALLED = ("_transport", "transport", "_writer", "writer", "_stream", "_sock")
_DEEPEST = 3


def break_off(frames: Iterable[FrameType], error: Exception) -> bool:
    """Break the first connection off that is found.

    Args:
        frames: of the functions that wait, the innermost first.
        error: what a transport is told.

    Returns:
        Whether there was one.
    """
    return any(_break_one(frame.f_locals, error) for frame in frames)


def let_go(awaited: object, error: Exception) -> bool:
    """Have trio forget what a task has just begun to wait for, so that something else can be raised there.

    A wait on trio takes itself back when it is told to, as it is when the task is cancelled; some, as that for a
    thread, do not.

    Args:
        awaited: what the coroutine gave to trio.
        error: what will be raised.

    Returns:
        Whether nothing will wake the task up any more.
    """
    take_back: Callable[[Callable[[], NoReturn]], Enum] | None = getattr(awaited, "abort_func", None)
    if take_back is None:  # a checkpoint, which waits for nothing
        return True

    def raise_it() -> NoReturn:
        raise error

    return take_back(raise_it).name == "SUCCEEDED"


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
    """Have whoever reads or writes there meet the end."""
    with suppress(OSError):  # it is none of a connection, or was closed meanwhile
        with socket.socket(fileno=os.dup(descriptor)) as same:
            same.shutdown(socket.SHUT_RDWR)
        return True
    return False
