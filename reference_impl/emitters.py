"""Emitters: each is lent to one request at a time, and forgets everything in between.

A borrower holds a ``Lease``, not the emitter: once it is returned, a late task of the old owner cannot write into the
new owner's stream. Waiting is first come, first served; a returned emitter goes straight to whoever waited longest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reference_impl.connections import Event

Dispatch = Callable[[str, Event], int]

KINDS = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed", "error")


class LeaseExpired(RuntimeError):
    """An emitter was used by somebody who has already returned it."""


class PoolExhausted(TimeoutError):
    """No emitter became free in time."""


class Emitter:
    """Numbers and sends the events of one request."""

    __slots__ = ("_sent", "lease", "user_id")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the owner and all that belonged to it."""
        self.user_id: str | None = None
        self.lease: Lease | None = None
        self._sent = 0

    def send(self, dispatch: Dispatch, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to the owner."""
        if self.user_id is None:
            raise LeaseExpired("this emitter belongs to nobody")
        self._sent += 1
        dispatch(self.user_id, {"kind": kind, "sequence": self._sent, **data})


class Lease:
    """The right to use an emitter until it is returned."""

    __slots__ = ("_dispatch", "_emitter", "user_id")

    def __init__(self, emitter: Emitter, dispatch: Dispatch, user_id: str) -> None:
        self._emitter = emitter
        self._dispatch = dispatch
        self.user_id = user_id

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to the user of this lease.

        Raises:
            LeaseExpired: the emitter has been returned.
            ValueError: there is no such kind of event.
        """
        if kind not in KINDS:
            raise ValueError(f"there is no event of kind {kind!r}; there are {', '.join(KINDS)}")
        if self._emitter.lease is not self:
            raise LeaseExpired(f"the emitter of {self.user_id} has been returned; it may be somebody else's by now")
        self._emitter.send(self._dispatch, kind, data)


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """How a pool is used.

    Attributes:
        size: emitters that exist.
        in_use: those that are lent.
        waiting: requests that wait for one.
    """

    size: int
    in_use: int
    waiting: int


class EmitterPool:
    """Lends emitters: some are made beforehand, more when they are needed, up to a limit.

    Args:
        dispatch: where emitters send.
        ready: how many are made beforehand.
        limit: how many there may be.
        timeout_s: how long a request waits for one.
    """

    def __init__(self, dispatch: Dispatch, *, ready: int = 20, limit: int = 200, timeout_s: float = 5.0) -> None:
        if not 0 <= ready <= limit or limit < 1:
            raise ValueError(f"a pool has 0 ≤ ready ≤ limit and limit ≥ 1, not ready={ready} and limit={limit}")
        self._dispatch = dispatch
        self._limit = limit
        self._timeout_s = timeout_s
        self._free = [Emitter() for _ in range(ready)]
        self._size = ready
        self._waiting: deque[asyncio.Future[Emitter]] = deque()

    @property
    def figures(self) -> PoolFigures:
        """How the pool is used now."""
        waiting = sum(not waiter.done() for waiter in self._waiting)
        return PoolFigures(self._size, self._size - len(self._free), waiting)

    async def acquire(self, user_id: str) -> Lease:
        """Borrow an emitter for a user.

        Raises:
            PoolExhausted: none became free in time.
        """
        emitter = self._take() or await self._wait()
        emitter.reset()
        emitter.user_id = user_id
        lease = emitter.lease = Lease(emitter, self._dispatch, user_id)
        return lease

    def release(self, lease: Lease) -> None:
        """Return an emitter; a second time does nothing."""
        emitter = lease._emitter
        if emitter.lease is not lease:
            return
        emitter.reset()
        self._hand_over(emitter)

    def _take(self) -> Emitter | None:
        if self._waiting:  # nobody overtakes those who wait
            return None
        if self._free:
            return self._free.pop()
        if self._size < self._limit:
            self._size += 1
            return Emitter()
        return None

    async def _wait(self) -> Emitter:
        waiter: asyncio.Future[Emitter] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await waiter
        except BaseException as stop:
            if waiter.done() and not waiter.cancelled():
                self._hand_over(waiter.result())  # it came in the moment in which we gave up
            if isinstance(stop, TimeoutError):
                limit = f"all {self._limit} emitters are in use"
                raise PoolExhausted(f"{limit}; none was returned within {self._timeout_s:g} s") from None
            raise

    def _hand_over(self, emitter: Emitter) -> None:
        """Give a returned emitter to whoever has waited longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(emitter)
                return
        self._free.append(emitter)
