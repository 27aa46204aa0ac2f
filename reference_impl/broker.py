"""Events between replicas: a user's events arrive wherever the user's socket is.

A replica delivers to its own listeners at once and by itself, and then tells the others. So a broker that is broken
takes nothing from anybody but what should have come from another replica.

Pub/sub has no memory: what is published while a replica is not connected is not there for it later. A replica keeps
what it could not publish (``outbox`` events, the oldest dropped first) and publishes it when the broker is back *and*
all replicas of which it has heard say that they are listening again, or after five seconds. So nothing of it is lost
when the server is restarted. What others publish while one replica alone is cut off is lost to it, and so is what the
server had taken and not yet passed on when it died.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from random import random
from secrets import token_hex
from time import monotonic
from typing import Any, Protocol
from urllib.parse import urlsplit

from reference_impl.connections import Event

Deliver = Callable[[str, Event], int]

_log = logging.getLogger(__name__)

VERSION = 1
CHANNEL = "isolation.events"
_BATCH = 100
_STARTING_S = _FLUSHING_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
# A server that answers nothing is left; whoever is not back by then has gone for good.
_PUBLISHING_S = _REUNION_S = 5.0
_WHO, _HERE = "who", "here"


@dataclass(frozen=True, slots=True)
class BrokerFigures:
    """How a broker does.

    Attributes:
        connected: it hears the others, and they it.
        published: events that were handed to the others.
        received: events of others that were delivered here.
        ignored: messages that were malformed, foreign, or had come before.
        dropped: events that were never published: too many waited, or they cannot be written as JSON.
        failures: connections that broke or could not be made.
        waiting: events that wait to be published.
    """

    connected: bool = True
    published: int = 0
    received: int = 0
    ignored: int = 0
    dropped: int = 0
    failures: int = 0
    waiting: int = 0


class Broker(Protocol):
    """Carries events."""

    @property
    def figures(self) -> BrokerFigures:
        """How it does."""

    async def start(self, deliver: Deliver) -> None:
        """Begin; ``deliver`` hands an event to the listeners of this replica."""

    async def aclose(self) -> None:
        """Publish what waits, as far as that goes quickly, and stop."""

    def dispatch(self, user_id: str, event: Event) -> int:
        """Deliver an event to its user, here at once and elsewhere soon; how many listened here. Never waits."""


class LocalBroker:
    """There is only this replica."""

    def __init__(self) -> None:
        self._deliver: Deliver | None = None

    @property
    def figures(self) -> BrokerFigures:
        """How it does."""
        return BrokerFigures()

    async def start(self, deliver: Deliver) -> None:
        """Begin."""
        self._deliver = deliver

    async def aclose(self) -> None:
        """Stop."""

    def dispatch(self, user_id: str, event: Event) -> int:
        """Deliver an event to its user."""
        return 0 if self._deliver is None else self._deliver(user_id, event)


class Link(Protocol):
    """A connection to a server that passes messages on to everybody who listens.

    Each is used for one thing by one task. Whatever interrupts it, it is closed and never used again: a command that
    was cancelled may have left its answer in the connection, for whoever asks next.
    """

    async def publish(self, messages: Sequence[str]) -> None:
        """Pass messages on, in their order."""

    async def listen(self, listening: Callable[[], None], receive: Callable[[str], None]) -> None:
        """Receive messages until the connection breaks; ``listening`` is called once it is sure to miss none."""

    async def aclose(self) -> None:
        """Close the connection at once."""


class RemoteBroker:
    """There are other replicas.

    Args:
        connect: makes a new link.
        failed: what a link raises when its server cannot be reached or goes away.
        outbox: events that are kept while the server is away.
    """

    def __init__(
        self, connect: Callable[[], Link], failed: tuple[type[Exception], ...], *, outbox: int = 10_000
    ) -> None:
        self._connect = connect
        self._failed: tuple[type[Exception], ...] = (*failed, OSError, EOFError)
        self._most = outbox
        self._outbox: deque[tuple[int, str, Event]] = deque()
        self._replica = token_hex(8)
        self._sequence = 0
        self._heard: dict[str, int] = {}
        self._peers: set[str] = set()
        self._present: set[str] = set()  # those of them that have been listening since our link was made
        self._reunite_by = 0.0
        self._to_say: dict[str, None] = {}
        self._news = asyncio.Event()
        self._deliver: Deliver | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._something = asyncio.Event()
        self._emptied = asyncio.Event()
        self._listening = asyncio.Event()
        self._published = self._received = self._ignored = self._dropped = self._failures = 0

    @property
    def figures(self) -> BrokerFigures:
        """How it does."""
        return BrokerFigures(
            self._listening.is_set(),
            self._published,
            self._received,
            self._ignored,
            self._dropped,
            self._failures,
            len(self._outbox),
        )

    async def start(self, deliver: Deliver) -> None:
        """Begin; if the server is not there, begin without it."""
        self._deliver = deliver
        loop = asyncio.get_running_loop()
        for work in (self._publish, self._listen):
            self._tasks.append(loop.create_task(self._keep(work), context=Context()))
        try:
            await asyncio.wait_for(self._listening.wait(), _STARTING_S)
        except TimeoutError:
            pass
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Publish what waits, as far as that goes quickly, and stop."""
        self._reunite_by = 0.0
        self._news.set()
        try:
            if self._outbox and self._tasks:
                await asyncio.wait_for(self._emptied.wait(), _FLUSHING_S)
        except TimeoutError:
            self._dropped += len(self._outbox)
        finally:
            tasks, self._tasks = set(self._tasks), []
            while tasks:  # a driver may take a cancellation for the end of a timeout of its own
                for task in tasks:
                    task.cancel()
                _, tasks = await asyncio.wait(tasks, timeout=1.0)
            self._listening.clear()

    def dispatch(self, user_id: str, event: Event) -> int:
        """Deliver an event to its user, here at once and elsewhere soon; how many listened here."""
        here = 0 if self._deliver is None else self._deliver(user_id, event)
        if len(self._outbox) >= self._most:
            self._outbox.popleft()
            self._dropped += 1
        self._sequence += 1
        self._outbox.append((self._sequence, user_id, event))
        self._emptied.clear()
        self._something.set()
        return here

    async def _keep(self, work: Callable[[Link], Coroutine[Any, Any, None]]) -> None:
        """Do a work over link after link, with a pause that grows as long as none holds."""
        pause_s = _FIRST_PAUSE_S
        while True:
            before = self._published, self._listening.is_set()
            try:
                link = self._connect()
                try:
                    await work(link)
                finally:
                    await link.aclose()
            except self._failed:
                self._failures += 1
            except Exception:  # a fault of ours: it is told, and the other replicas are not lost for good because of it
                self._failures += 1
                _log.exception("%s failed", work.__name__)
            if (self._published, self._listening.is_set()) != before:
                pause_s = _FIRST_PAUSE_S  # it held for a while
            if work == self._listen:
                self._listening.clear()
            await asyncio.sleep(pause_s * (0.5 + random() / 2))  # so that replicas do not come back all at once
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _publish(self, link: Link) -> None:
        self._present.clear()
        self._reunite_by = monotonic() + _REUNION_S if self._peers else 0.0
        self._say(_WHO, *([_HERE] if self._listening.is_set() else []))
        while True:
            await self._something.wait()
            if self._to_say:
                words, self._to_say = list(self._to_say), {}
                await _within(
                    _PUBLISHING_S, link.publish([json.dumps([VERSION, self._replica, word]) for word in words])
                )
            if self._are_missing():
                await self._news_until(self._reunite_by)
                continue
            await self._publish_batch(link)
            if not self._outbox:
                self._emptied.set()
                if not self._to_say:
                    self._something.clear()

    async def _publish_batch(self, link: Link) -> None:
        # The batch stays in the outbox until it is sure to be published; others know its numbers if it comes twice.
        batch = [self._outbox[index] for index in range(min(_BATCH, len(self._outbox)))]
        messages = [message for waiting in batch if (message := self._encode(*waiting)) is not None]
        if messages:
            await _within(_PUBLISHING_S, link.publish(messages))
        self._published += len(messages)
        self._dropped += len(batch) - len(messages)
        for done in batch:
            if self._outbox and self._outbox[0] is done:  # unless it was dropped meanwhile
                self._outbox.popleft()

    def _say(self, *words: str) -> None:
        """Have something said to the other replicas, before any event."""
        self._to_say.update(dict.fromkeys(words))
        self._something.set()
        self._news.set()

    def _are_missing(self) -> bool:
        """Somebody who was there before the break may still come back, and would miss what is published now."""
        if self._peers <= self._present:
            return False
        if monotonic() < self._reunite_by:
            return True
        self._peers &= self._present
        return False

    async def _news_until(self, deadline: float) -> None:
        self._news.clear()
        with suppress(TimeoutError):
            await _within(max(0.0, deadline - monotonic()), self._news.wait())

    async def _listen(self, link: Link) -> None:
        await link.listen(self._begin_listening, self._receive)

    def _begin_listening(self) -> None:
        self._listening.set()
        self._say(_HERE, _WHO)

    def _encode(self, sequence: int, user_id: str, event: Event) -> str | None:
        message = [VERSION, self._replica, sequence, user_id, dict(event)]
        try:
            return json.dumps(message, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError):  # what no replica could read
            return None

    def _receive(self, message: str) -> None:
        """Deliver what another replica sent: to the user that stands in it, and to nobody on any doubt."""
        try:
            version, replica, *rest = json.loads(message)
        except (TypeError, ValueError):
            self._ignored += 1
            return
        if replica == self._replica:
            return
        if version != VERSION or not isinstance(replica, str):
            self._ignored += 1
        elif rest in ([_WHO], [_HERE]):
            self._meet(replica, rest[0])
        elif len(rest) == 3:
            self._take(replica, *rest)
        else:
            self._ignored += 1

    def _meet(self, replica: str, word: str) -> None:
        """Another replica asks who is there, or says that it is listening."""
        if word == _WHO:
            self._say(_HERE)
            return
        self._peers.add(replica)
        self._present.add(replica)
        self._news.set()

    def _take(self, replica: str, sequence: object, user_id: object, event: object) -> None:
        """Deliver an event of another replica."""
        if not (isinstance(sequence, int) and isinstance(user_id, str) and user_id and isinstance(event, dict)):
            self._ignored += 1
            return
        self._peers.add(replica)
        if sequence <= self._heard.get(replica, 0):  # it was published again after a failure
            self._ignored += 1
            return
        self._heard[replica] = sequence
        self._received += 1
        if self._deliver is not None:
            self._deliver(user_id, event)


async def _within(seconds: float, work: Awaitable[object]) -> None:
    async with asyncio.timeout(seconds):
        await work


def make_broker(url: str | None) -> Broker:
    """The broker for a URL.

    Args:
        url: ``redis://…``, ``rediss://…``, ``valkey://…`` or ``postgresql://…``; None for a single replica.

    Raises:
        ValueError: there is none for this scheme, its library is not installed, or nobody could connect to such a URL.
    """
    if url is None:
        return LocalBroker()
    scheme = url.partition(":")[0].partition("+")[0]
    extra = {"redis": "valkey", "rediss": "valkey", "valkey": "valkey", "postgresql": "postgres"}.get(scheme)
    if extra is None:
        raise ValueError(f"there is no broker for {scheme!r}; there are redis://…, valkey://… and postgresql://…")
    try:
        if extra == "valkey":
            from reference_impl.broker_redis import FAILED, RedisLink

            return _checked(url, lambda: RedisLink(url, CHANNEL), FAILED)
        from reference_impl.broker_postgres import FAILED as FAILED_POSTGRES
        from reference_impl.broker_postgres import PostgresLink

        return _checked(url, lambda: PostgresLink(url, CHANNEL), FAILED_POSTGRES)
    except ImportError as error:
        raise ValueError(
            f"a broker at {scheme}://… needs an extra: pip install 'pytest-isolation[{extra}]' ({error})"
        ) from error


def _checked(url: str, connect: Callable[[], Link], failed: tuple[type[Exception], ...]) -> Broker:
    """A broker, if its links can at least be made: else it would try for ever, and say no more than that it fails."""
    try:
        _ = urlsplit(url).port
        connect()
    except (TypeError, ValueError) as error:
        scheme = url.partition(":")[0]
        raise ValueError(f"the broker's URL is no good ({error}); it is {scheme}://user:password@host:port/…") from None
    return RemoteBroker(connect, failed)
