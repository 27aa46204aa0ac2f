"""Emitters: each is lent to one request at a time, and forgets everything in between.

A borrower holds a ``Lease``, not the emitter: once it is returned, a late task of the old owner cannot write into the
new owner's stream. Waiting is first come, first served; a returned emitter goes straight to whoever waited longest.
What is free is taken last in, first out: the one that was used last is the one that is still in the cache.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reference_impl.connections import Event

Dispatch = Callable[[str, Event], int]

KINDS = frozenset({"agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed", "error"})


class LeaseExpired(RuntimeError):
    """An emitter was used by somebody who has already returned it."""


class PoolExhausted(TimeoutError):
    """No emitter became free in time."""


class Emitter:
    """Numbers and sends the events of one request."""

    __slots__ = ("holder", "sent")

    def __init__(self) -> None:
        self.holder = 0
        self.sent = 0


class Lease:
    """The right to use an emitter until it is returned.

    Attributes:
        user_id: whose events it sends, and to whom.
    """

    __slots__ = ("__weakref__", "_emitter", "_number", "_pool", "user_id")

    def __init__(self, emitter: Emitter, number: int, pool: EmitterPool, user_id: str) -> None:
        self._emitter = emitter
        self._number = number
        self._pool = pool
        self.user_id = user_id

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to the user of this lease.

        Raises:
            LeaseExpired: the emitter has been returned.
            ValueError: there is no such kind of event.
        """
        if kind not in KINDS:
            raise ValueError(f"there is no event of kind {kind!r}; there are {', '.join(sorted(KINDS))}")
        emitter = self._emitter
        if emitter.holder != self._number:
            raise LeaseExpired(f"the emitter of {self.user_id} has been returned; it may be somebody else's by now")
        emitter.sent += 1
        self._pool._dispatch(self.user_id, {**data, "kind": kind, "sequence": emitter.sent})

    def __del__(self) -> None:
        # The emitter does not know its lease, so that a lease that nobody holds any more dies at once.
        if self._emitter.holder == self._number:
            self._pool._lost(self._emitter)


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """How a pool is used.

    Attributes:
        size: emitters that exist.
        in_use: those that are lent.
        waiting: requests that wait for one.
        created: emitters that were ever made.
        waited: requests that had to wait.
        timeouts: those of them that waited in vain.
        lost: leases that were dropped instead of returned; their emitters came back all the same.
        lent: leases in all, which is requests that were opened.
    """

    size: int
    in_use: int
    waiting: int
    created: int
    waited: int
    timeouts: int
    lost: int
    lent: int


class EmitterPool:
    """Lends emitters: some are made beforehand, more when they are needed, up to a limit.

    Args:
        dispatch: where emitters send.
        ready: how many are made beforehand.
        limit: how many there may be.
        timeout_s: how long a request waits for one.
        reuse: lend emitters again; without it each is made for one request, and the limit still holds.

    Attributes:
        uses: the methods of a lease that only its borrower may call.
        free: those that are not lent; for others to look at only.
    """

    uses = ("emit",)

    def __init__(
        self, dispatch: Dispatch, *, ready: int = 20, limit: int = 200, timeout_s: float = 5.0, reuse: bool = True
    ) -> None:
        if not 0 <= ready <= limit or limit < 1:
            raise ValueError(f"a pool has 0 ≤ ready ≤ limit and limit ≥ 1, not ready={ready} and limit={limit}")
        self._dispatch = dispatch
        self._limit = limit
        self._timeout_s = timeout_s
        self._reuse = reuse
        self.free = [Emitter() for _ in range(ready if reuse else 0)]
        self._size = self._created = len(self.free)
        self._waiting: deque[asyncio.Future[Emitter]] = deque()
        self._dropped: deque[Emitter] = deque()
        self._leases = self._waited = self._timeouts = self._lost_leases = 0

    @property
    def figures(self) -> PoolFigures:
        """How the pool is used now."""
        self._take_back()
        waiting = len(self._waiting)
        return PoolFigures(
            self._size,
            self._size - len(self.free),
            waiting,
            self._created,
            self._waited,
            self._timeouts,
            self._lost_leases,
            self._leases,
        )

    async def acquire(self, user_id: str) -> Lease:
        """Borrow an emitter for a user.

        Raises:
            PoolExhausted: none became free in time.
        """
        if self.free and not self._waiting:  # nobody overtakes those who wait
            emitter = self.free.pop()
        else:
            emitter = await self._more()
        self._leases = emitter.holder = number = self._leases + 1
        emitter.sent = 0
        return Lease(emitter, number, self, user_id)

    def release(self, lease: Lease) -> None:
        """Return an emitter; a second time does nothing."""
        emitter = lease._emitter
        if emitter.holder == lease._number:
            emitter.holder = emitter.sent = 0
            if self._waiting or not self._reuse:
                self._hand_over(emitter)
            else:
                self.free.append(emitter)

    @staticmethod
    def thing_of(lease: Lease) -> Emitter | None:
        """The emitter of a lease; None once that was returned."""
        return lease._emitter if lease._emitter.holder == lease._number else None

    @staticmethod
    def dirt_of(emitter: Emitter) -> str:
        """What an emitter that is lent still has of another request; empty if nothing."""
        return f"{emitter.sent} events sent" if emitter.sent else ""

    async def _more(self) -> Emitter:
        if self._dropped:
            self._take_back()
            if self.free and not self._waiting:
                return self.free.pop()
        if self._size < self._limit and not self._waiting:
            self._size += 1
            self._created += 1
            return Emitter()
        self._waited += 1
        waiter: asyncio.Future[Emitter] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await waiter
        except BaseException as stop:
            if waiter.done() and not waiter.cancelled():
                self._hand_over(waiter.result())  # it came in the moment in which we gave up
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            if isinstance(stop, TimeoutError):
                self._timeouts += 1
                limit = f"all {self._limit} emitters are in use"
                raise PoolExhausted(f"{limit}; none was returned within {self._timeout_s:g} s") from None
            raise

    def _hand_over(self, emitter: Emitter) -> None:
        """Give a returned emitter to whoever has waited longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._created += not self._reuse
                waiter.set_result(emitter if self._reuse else Emitter())
                return
        if self._reuse:
            self.free.append(emitter)
        else:
            self._size -= 1

    def _lost(self, emitter: Emitter) -> None:
        """Note an emitter whose lease was dropped; this may be any thread, so that it is only put aside here."""
        emitter.holder = emitter.sent = 0
        self._dropped.append(emitter)
        if self._waiting:
            self._waiting[0].get_loop().call_soon_threadsafe(self._take_back)

    def _take_back(self) -> None:
        while self._dropped:
            self._lost_leases += 1
            self._hand_over(self._dropped.popleft())
