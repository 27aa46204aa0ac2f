"""A user's own WebSocket: every message that it receives is observed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed

from pytest_isolation.targets.http import channel_of
from pytest_isolation.users.cast import User
from pytest_isolation.users.transcript import parse_json

# Our own patience ends a test; a server that does not answer a close is not waited for.
_OPTIONS: Mapping[str, Any] = {"proxy": None, "compression": None, "open_timeout": 30, "close_timeout": 1}


class Socket:
    """A WebSocket in an async test.

    Args:
        connection: of the websockets library.
        user: who observes.
        channel: what its messages are called.

    Attributes:
        connection: see above; what it receives by itself is not observed.
    """

    def __init__(self, connection: Any, user: User, channel: str) -> None:
        self.connection = connection
        self._user, self._channel = user, channel

    async def send(self, message: str | bytes) -> None:
        """Send a message."""
        await self.connection.send(message)

    async def recv(self) -> str | bytes:
        """Receive the next message, and observe it.

        Raises:
            websockets.exceptions.ConnectionClosed: there is no other.
        """
        return _observed(await self.connection.recv(), self._user, self._channel)

    # No generator: trio complains of those that are left before their end.
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.recv()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it before the block ends."""
        # trio's websockets call it as trio does.
        close = getattr(self.connection, "close", None) or self.connection.aclose
        await close(code, reason)


class SyncSocket:
    """A WebSocket in a sync test.

    Args:
        connection: of the websockets library.
        user: who observes.
        channel: what its messages are called.

    Attributes:
        connection: see above; what it receives by itself is not observed.
    """

    def __init__(self, connection: Any, user: User, channel: str) -> None:
        self.connection = connection
        self._user, self._channel = user, channel

    def send(self, message: str | bytes) -> None:
        """Send a message."""
        self.connection.send(message)

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Receive the next message, and observe it.

        Args:
            timeout: seconds.

        Raises:
            websockets.exceptions.ConnectionClosed: there is no other.
        """
        return _observed(self.connection.recv(timeout), self._user, self._channel)

    def __iter__(self) -> Iterator[str | bytes]:
        while True:
            try:
                message = self.recv()
            except ConnectionClosed:
                return
            yield message

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it before the block ends."""
        self.connection.close(code, reason)


@asynccontextmanager
async def open_async(user: User, url: str, path: str, options: Mapping[str, Any]) -> AsyncIterator[Socket]:
    """Connect in async code, on asyncio or trio.

    Args:
        user: who observes.
        url: of the application.
        path: at which it listens.
        options: of the websockets library.
    """
    async with _library().connect(_address(url, path), **{**_OPTIONS, **options}) as connection:
        yield Socket(connection, user, _channel(user, path))


@contextmanager
def open_sync(user: User, url: str, path: str, options: Mapping[str, Any]) -> Iterator[SyncSocket]:
    """Connect in sync code."""
    from websockets.sync.client import connect

    with connect(_address(url, path), **{**_OPTIONS, **options}) as connection:
        yield SyncSocket(connection, user, _channel(user, path))


def _library() -> ModuleType:
    """The part of websockets for the event loop that runs."""
    from pytest_isolation.loops import on_asyncio
    from pytest_isolation.targets.extra import asgi_extra

    if on_asyncio():
        import websockets.asyncio.client

        return websockets.asyncio.client
    with asgi_extra("a WebSocket on trio (a release of websockets that knows trio)"):
        import websockets.trio.client

    return websockets.trio.client


def _address(url: str, path: str) -> str:
    return f"ws{url.removeprefix('http')}/{path.removeprefix('/')}"


def _channel(user: User, path: str) -> str:
    return channel_of(user, "WS", f"/{path.removeprefix('/')}".partition("?")[0])


def _observed(message: str | bytes, user: User, channel: str) -> str | bytes:
    parsed = parse_json(message)
    user.observe(message if parsed is None else parsed, channel)
    return message
