"""Where users listen: every user has inboxes of its own, and an event goes to those of one user."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

Event = Mapping[str, Any]

DROPPED = "dropped"
_TOO_SLOW = "the listener was too slow"


class InboxClosed(Exception):
    """The inbox has been closed, and everything in it has been read."""


class Dropped:
    """Which events a listener does not get.

    Attributes:
        count: how many.
    """

    __slots__ = ("_first", "_kinds", "_last", "count")

    def __init__(self) -> None:
        self.count = 0
        self._kinds: dict[str, int] = {}
        self._first: object = None
        self._last: object = None

    def add(self, event: Event) -> int:
        """Note an event; one that says what was dropped before counts as all that it names. How many it was."""
        if event.get("kind") == DROPPED:
            kinds, first, last = event["kinds"], event["from"], event["to"]
        else:
            kinds, first = {str(event.get("kind")): 1}, event.get("sequence")
            last = first
        if not self.count:
            self._first = first
        self._last = last
        for kind, count in kinds.items():
            self._kinds[kind] = self._kinds.get(kind, 0) + count
        more: int = sum(kinds.values())
        self.count += more
        return more

    def notice(self, reason: str) -> Event:
        """The event that says so: how many of each kind, and the numbers of the first and the last one."""
        kinds = {"count": self.count, "kinds": self._kinds, "from": self._first, "to": self._last}
        return {"kind": DROPPED, "reason": reason, **kinds}


class Inbox:
    """What one listener of a user has received and not yet read.

    It is bounded: of a listener that is too slow the oldest events are dropped, and the next thing it reads says which
    (``{"kind": "dropped", "count": 3, "kinds": {"agent_thinking": 3}, "from": 2, "to": 4, …}``). It delays nobody else,
    and a listener that never reads costs no more.

    Args:
        limit: how many events it keeps.

    Attributes:
        dropped: how many it has dropped in all.
    """

    __slots__ = ("_closed", "_events", "_unsaid", "_waiting", "dropped")

    def __init__(self, limit: int = 1000) -> None:
        self._events: deque[Event] = deque(maxlen=limit)
        self._waiting: list[asyncio.Future[None]] = []  # an empty deque takes ten times as much
        self._unsaid: Dropped | None = None
        self.dropped = 0
        self._closed = False

    def put(self, event: Event) -> None:
        """Deliver an event; after the inbox was closed it is dropped."""
        if self._closed:
            self.dropped += 1
            return
        if len(self._events) == self._events.maxlen:
            self._drop(self._events.popleft())
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
        if self._unsaid is not None:
            unsaid, self._unsaid = self._unsaid, None
            return unsaid.notice(_TOO_SLOW)
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
            self._put_back(batch)
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

    def _put_back(self, batch: list[Event]) -> None:
        """Whoever reads next gets them; of more than there is room for, the oldest are dropped as ever."""
        excess = max(0, len(batch) + len(self._events) - (self._events.maxlen or 0))
        for event in batch[:excess]:
            self._drop(event)
        self._events.extendleft(reversed(batch[excess:]))

    def _drop(self, event: Event) -> None:
        if self._unsaid is None:
            self._unsaid = Dropped()
        count = self._unsaid.add(event)
        if event.get("kind") != DROPPED:  # else they were counted when they were dropped
            self.dropped += count

    async def _arrival(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif self._events or self._closed:
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
        self._dropped = 0

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

    @property
    def dropped(self) -> int:
        """How many events listeners did not get, because they were too slow or had gone."""
        return self._dropped + sum(inbox.dropped for inboxes in self._inboxes.values() for inbox in inboxes)

    def __len__(self) -> int:
        return sum(map(len, self._inboxes.values()))

    def _add(self, user_id: str) -> Inbox:
        inbox = Inbox(self._limit)
        # A new tuple, because a dispatch may be walking through the old one.
        self._inboxes[user_id] = (*self._inboxes.get(user_id, ()), inbox)
        return inbox

    def _remove(self, user_id: str, inbox: Inbox) -> None:
        inbox.close()
        there = self._inboxes.get(user_id, ())
        self._dropped += inbox.dropped if inbox in there else 0
        left = tuple(other for other in there if other is not inbox)
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
