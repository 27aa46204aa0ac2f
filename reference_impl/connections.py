"""Where users listen: every user has inboxes of its own, and an event goes to those of one user."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

Event = Mapping[str, Any]


class InboxClosed(Exception):
    """The inbox has been closed, and everything in it has been read."""


class Inbox:
    """What one listener of a user has received and not yet read.

    It is bounded: of a listener that is too slow the oldest events are dropped, and the next thing it reads says how
    many (``{"kind": "dropped", "count": 3}``). It delays nobody else, and a listener that never reads costs no more.

    Args:
        limit: how many events it keeps.

    Attributes:
        dropped: how many it has dropped in all.
    """

    __slots__ = ("_closed", "_events", "_unsaid", "_waiting", "dropped")

    def __init__(self, limit: int = 1000) -> None:
        self._events: deque[Event] = deque(maxlen=limit)
        self._waiting: list[asyncio.Future[None]] = []  # an empty deque takes ten times as much
        self._unsaid = self.dropped = 0
        self._closed = False

    def put(self, event: Event) -> None:
        """Deliver an event; after the inbox was closed it is dropped."""
        if self._closed:
            self.dropped += 1
            return
        if len(self._events) == self._events.maxlen:
            self.dropped += 1
            self._unsaid += 1
        self._events.append(event)
        if self._waiting:
            self._wake()

    async def receive(self) -> Event:
        """The next event; waits until there is one.

        Raises:
            InboxClosed: there will be none.
        """
        while not self._events:
            if self._closed:
                raise InboxClosed
            await self._arrival()
        if self._unsaid:
            count, self._unsaid = self._unsaid, 0
            return {"kind": "dropped", "count": count}
        return self._events.popleft()

    async def receive_batch(self, most: int, wait_s: float) -> list[Event]:
        """The next events in their order: waits for the first, and then a little for company.

        Args:
            most: no more than so many.
            wait_s: the first one waits no longer than this; it waits not at all once the inbox is closed.

        Raises:
            InboxClosed: there will be none.
        """
        batch = [await self.receive()]
        try:
            async with asyncio.timeout(wait_s):
                while len(batch) < most:
                    batch.append(await self.receive())
        except (TimeoutError, InboxClosed):
            pass
        except asyncio.CancelledError:
            self._events.extendleft(reversed(batch))  # whoever reads next gets them
            raise
        return batch

    def pending(self) -> int:
        """How many events wait to be received."""
        return len(self._events)

    def close(self) -> None:
        """Take no more; what is there can still be read."""
        self._closed = True
        while self._waiting:
            self._wake()

    async def _arrival(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake()  # the event came in that moment, and is for whoever waits next
            raise

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return


class Connections:
    """Which inboxes belong to which user.

    Args:
        limit: how many events are kept for a slow listener.
    """

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._inboxes: dict[str, tuple[Inbox, ...]] = {}

    def connect(self, user_id: str) -> Connection:
        """Let a user listen for the time of an ``async with`` block; a user may have several of them."""
        return Connection(self, user_id)

    def dispatch(self, user_id: str, event: Event) -> int:
        """Deliver an event to every inbox of one user; how many there were."""
        inboxes = self._inboxes.get(user_id, ())
        for inbox in inboxes:
            inbox.put(event)
        return len(inboxes)

    def close(self) -> None:
        """Close every inbox: who listens reads what is left, and then the end."""
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.close()

    def __len__(self) -> int:
        return sum(map(len, self._inboxes.values()))

    def _add(self, user_id: str) -> Inbox:
        inbox = Inbox(self._limit)
        # A new tuple, because a dispatch may be walking through the old one.
        self._inboxes[user_id] = (*self._inboxes.get(user_id, ()), inbox)
        return inbox

    def _remove(self, user_id: str, inbox: Inbox) -> None:
        inbox.close()
        left = tuple(other for other in self._inboxes.get(user_id, ()) if other is not inbox)
        if left:
            self._inboxes[user_id] = left
        else:  # the table holds nobody who has left
            self._inboxes.pop(user_id, None)


class Connection:
    """One listener, from its connecting to its leaving."""

    __slots__ = ("_connections", "_inbox", "_user_id")

    def __init__(self, connections: Connections, user_id: str) -> None:
        self._connections = connections
        self._user_id = user_id
        self._inbox: Inbox | None = None

    async def __aenter__(self) -> Inbox:
        if self._inbox is not None:
            raise RuntimeError("this listener has connected already; connect() makes another")
        self._inbox = self._connections._add(self._user_id)
        return self._inbox

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._inbox is not None:
            self._connections._remove(self._user_id, self._inbox)
