"""Makes the network as slow as a real one, for a while: nothing arrives or leaves while anybody has something to do.

On one machine a reply is there within a tenth of a millisecond, and a connection that looks whether a stale one is
lying there may just find it. Between two machines it would still be under way. So nothing is read before the event loop
would fall asleep, and nothing is sent either (TCP_CORK, on Linux) before all that has arrived by then is dealt with.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

# A loop that never falls asleep is not kept from its network for longer.
_MOST_S = 0.05
# A timer that is due this soon means that somebody has something to do.
_SOON_S = 0.001
# For so long what was under way at the beginning may still arrive.
_LATENCY_S = 0.002
_CORK = getattr(socket, "TCP_CORK", None)


def hold_back(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Make the network of a loop slow.

    Args:
        loop: any; that of one which is not asyncio's own with a selector stays as it is.

    Returns:
        What ends it.
    """
    selector, own_pipe = getattr(loop, "_selector", None), getattr(loop, "_ssock", None)
    if not isinstance(selector, selectors.BaseSelector) or "select" in vars(selector):
        return lambda: None
    select, busy_since, under_way_s = selector.select, perf_counter(), _LATENCY_S
    # Remembered, for a driver such as psycopg takes its connection out of the selector between two waits.
    corked: set[int] = set()

    def cork() -> None:
        for key in selector.get_map().values():
            if key.fileobj is not own_pipe and _cork(key.fd, True):
                corked.add(key.fd)

    def uncork() -> None:
        while corked:
            _cork(corked.pop(), False)  # if it was closed, and its number is another's by now, that one is not corked

    def held(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        nonlocal busy_since, under_way_s
        is_idle = timeout is None or timeout > _SOON_S
        if not is_idle and perf_counter() - busy_since < _MOST_S:
            seen = ((key, mask if key.fileobj is own_pipe else mask & ~selectors.EVENT_READ) for key, mask in select(0))
            return [(key, mask) for key, mask in seen if mask]
        events = select(min(under_way_s, timeout or under_way_s) if is_idle else 0)
        under_way_s = 0.0
        if not events:
            uncork()
            events = select(timeout)
            cork()
        busy_since = perf_counter()
        return events

    def let_go() -> None:
        if vars(selector).pop("select", None) is not None:
            uncork()

    vars(selector)["select"] = held
    cork()
    return let_go


def _cork(descriptor: int, is_on: bool) -> bool:
    """Have a connection keep what is sent to itself, or send it; whether it is one."""
    if _CORK is None:
        return False
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:  # a pipe, or closed meanwhile
        return False
    try:
        if connection.type != socket.SOCK_STREAM or connection.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        with suppress(OSError):  # closed meanwhile
            connection.setsockopt(socket.IPPROTO_TCP, _CORK, int(is_on))
        return True
    finally:
        connection.detach()
