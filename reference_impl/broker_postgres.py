"""Messages between replicas through LISTEN and NOTIFY of PostgreSQL, where a second server would be one too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from secrets import token_hex

import asyncpg

FAILED: tuple[type[Exception], ...] = (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)

# A notification holds less than 8000 bytes; a longer message goes in parts. Messages are ASCII, so a letter is a byte.
_PART = 7000
_SILENCE_S = 10.0
_ANSWER_S = 5.0


class PostgresLink:
    """One connection to PostgreSQL, for one task.

    Args:
        url: ``postgresql://…``; a driver of SQLAlchemy in it is ignored.
        channel: on which messages go.
    """

    def __init__(self, url: str, channel: str) -> None:
        self._channel = channel
        scheme, colon, rest = url.partition(":")
        self._url = f"{scheme.partition('+')[0]}{colon}{rest}"
        self._connection: asyncpg.Connection | None = None
        self._id = token_hex(4)
        self._numbers = count()
        self._parts: dict[str, list[str]] = {}

    async def publish(self, messages: Sequence[str]) -> None:
        """Pass messages on, in one transaction, which keeps their order."""
        connection = await self._open()
        parts = [part for message in messages for part in self._split(message)]
        statement = "SELECT pg_notify($1, part) FROM unnest($2::text[]) part"
        await connection.execute(statement, self._channel, parts, timeout=_ANSWER_S)

    async def listen(self, listening: Callable[[], None], receive: Callable[[str], None]) -> None:
        """Receive messages until the connection breaks."""
        connection, broken = await self._open(), asyncio.Event()

        def notified(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            message = self._join(str(payload))
            if message is not None:
                receive(message)

        connection.add_termination_listener(lambda _connection: broken.set())
        async with asyncio.timeout(_ANSWER_S):
            await connection.add_listener(self._channel, notified)
        listening()
        while not broken.is_set():
            try:
                await asyncio.wait_for(broken.wait(), _SILENCE_S)
            except TimeoutError:  # a server that was cut off, and not closed, never says so
                await connection.execute("SELECT 1", timeout=_SILENCE_S)
        raise asyncpg.InterfaceError("the connection to PostgreSQL is gone")

    async def aclose(self) -> None:
        """Close the connection, whatever was under way on it."""
        if self._connection is not None:
            self._connection.terminate()

    async def _open(self) -> asyncpg.Connection:
        if self._connection is None:
            self._connection = await asyncpg.connect(self._url, timeout=2.0)
        return self._connection

    def _split(self, message: str) -> Sequence[str]:
        chunks = [message[at : at + _PART] for at in range(0, len(message), _PART)]
        name = f"{self._id}-{next(self._numbers)}"
        return [f"{name} {index} {len(chunks)} {chunk}" for index, chunk in enumerate(chunks)]

    def _join(self, payload: str) -> str | None:
        """The whole message once its last part is there; parts of one message come in order and together."""
        fields = payload.split(" ", 3)
        if len(fields) != 4 or not (fields[1].isdigit() and fields[2].isdigit()):
            return payload  # not ours: whoever reads it will say so
        name, index, of, chunk = fields[0], int(fields[1]), int(fields[2]), fields[3]
        if index == 0:
            self._parts.clear()
        self._parts.setdefault(name, []).append(chunk)
        if index < of - 1:
            return None
        return "".join(self._parts.pop(name))
