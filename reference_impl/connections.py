"""Where users listen: every user has inboxes of its own, and an event goes to those of one user."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

Event = Mapping[str, Any]


class Inbox:
    """What one listener of a user has received and not yet read; bounded, the oldest is dropped first.

    Args:
        limit: how many events it keeps for a listener that is slow.

    Attributes:
        dropped: how many it has dropped.
    """

    __slots__ = ("_events", "_waiting", "dropped")

    def __init__(self, limit: int = 1000) -> None:
        self._events: deque[Event] = deque(maxlen=limit)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.dropped = 0

    def put(self, event: Event) -> None:
        """Deliver an event; a slow listener delays nobody."""
        self.dropped += len(self._events) == self._events.maxlen
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    async def receive(self) -> Event:
        """The next event; waits until there is one."""
        while not self._events:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # the event came in that moment, and is for whoever waits next
                raise
        return self._events.popleft()

    def pending(self) -> int:
        """How many events wait to be received."""
        return len(self._events)


class Connections:
    """Which inboxes belong to which user."""

    def __init__(self) -> None:
        self._inboxes: dict[str, set[Inbox]] = {}

    def connect(self, user_id: str) -> Connection:
        """Let a user listen for the time of an ``async with`` block."""
        return Connection(self._inboxes, user_id)

    def dispatch(self, user_id: str, event: Event) -> int:
        """Deliver an event to every inbox of one user; how many there were."""
        inboxes = self._inboxes.get(user_id, ())
        for inbox in inboxes:
            inbox.put(event)
        return len(inboxes)

    def __len__(self) -> int:
        return sum(map(len, self._inboxes.values()))


class Connection:
    """One listener, from its connecting to its leaving."""

    __slots__ = ("_inbox", "_inboxes", "_user_id")

    def __init__(self, inboxes: dict[str, set[Inbox]], user_id: str) -> None:
        self._inboxes = inboxes
        self._user_id = user_id
        self._inbox = Inbox()

    async def __aenter__(self) -> Inbox:
        self._inboxes.setdefault(self._user_id, set()).add(self._inbox)
        return self._inbox

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        mine = self._inboxes[self._user_id]
        mine.discard(self._inbox)
        if not mine:  # the table holds nobody who has left
            del self._inboxes[self._user_id]
