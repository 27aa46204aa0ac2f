"""A proxy in front of the application: users who share its connections, and answers that it keeps for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import h11

from pytest_isolation.errors import MisuseError
from pytest_isolation.model import Response
from pytest_isolation.targets.asgi import AsgiServer
from pytest_isolation.targets.intermediary import Proxy
from pytest_isolation.targets.kept import SharedCache
from pytest_isolation.targets.upstream import LONG_S, Exchange, NoAnswer, Upstream

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# Between two neighbours only (RFC 9110, section 7.6.1); uvicorn says itself who it is and what time it is.
_OWN = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"})
_SAID_TWICE = frozenset({b"date", b"server"})


class ProxyServer:
    """A proxy on a free port of this machine.

    Args:
        url: of the application.
        proxy: what it does.

    Attributes:
        url: where users reach the application through it.
        hears_marks: it passes them on.

    Raises:
        MisuseError: the application speaks TLS.
    """

    hears_marks = True

    def __init__(self, url: str, proxy: Proxy) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http":
            raise MisuseError(f"isolation_proxy reaches an application over http:// only, and isolation_app is {url}")
        self._server = AsgiServer(_Forwarding(parts.hostname or "", parts.port or 80, proxy))
        self.url = self._server.url + parts.path

    def close(self) -> None:
        """Close all its connections."""
        self._server.close()


class _Forwarding:
    """An ASGI application that hands requests over to another one."""

    def __init__(self, host: str, port: int, proxy: Proxy) -> None:
        self._host, self._port, self._proxy = host, port, proxy
        self._cache = SharedCache() if proxy.cache else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._forward(scope, receive, send)
        else:  # users open their WebSockets to the application itself: nobody shares one
            await send({"type": "websocket.close"})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._upstream = Upstream(self._host, self._port, self._proxy.connections, self._proxy.pipeline)
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            await self._upstream.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _forward(self, scope: Message, receive: Receive, send: Send) -> None:
        method, target = scope["method"], _target(scope)
        asked = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = await _body(receive)
        if self._cache is not None and (found := self._cache.find(method, target, asked)):
            kept, age_s = found
            headers = [*_encoded(kept.response.headers), (b"age", b"%d" % age_s)]
            await _answer(send, kept.response.status, headers, kept.body)
            return
        request = h11.Request(method=method, target=target, headers=[*_passed_on(scope["headers"], body)])
        exchange = Exchange(request, body)
        self._upstream.send(exchange)
        leaving = asyncio.create_task(_left(receive, exchange))
        try:
            await self._pass_on(send, method, target, asked, exchange, leaving)
        finally:
            leaving.cancel()

    async def _pass_on(
        self,
        send: Send,
        method: str,
        target: str,
        asked: Mapping[str, str],
        exchange: Exchange,
        leaving: asyncio.Task[None],
    ) -> None:
        """Hand an answer over, and keep it if that is permitted."""
        head = await exchange.events.get()
        if not isinstance(head, h11.Response):
            reason = f"the application did not answer the proxy of pytest-isolation: {head}"
            await _answer(send, 502, [(b"content-type", b"text/plain")], reason.encode())
            return
        try:
            received = await _relay(send, head, exchange)
        except NoAnswer:
            if leaving.done():  # its user has gone
                return
            raise
        if self._cache is not None:
            said = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
            self._cache.hear(Response(method, target, head.status_code, said, tuple(asked.items())), received)


async def _left(receive: Receive, exchange: Exchange) -> None:
    """When the user has gone, let a short answer come to its end, so that the connection can be used again."""
    await receive()
    await asyncio.sleep(LONG_S)
    exchange.cut()


async def _relay(send: Send, head: h11.Response, exchange: Exchange) -> bytes:
    """Hand over an answer as it comes; all of its body."""
    headers = [pair for pair in _unhopped(head.headers) if pair[0] not in _SAID_TWICE]
    await send({"type": "http.response.start", "status": head.status_code, "headers": headers})
    received = bytearray()
    while (event := await exchange.events.get()) is not None:
        if isinstance(event, NoAnswer):
            raise event  # the head is on its way already: uvicorn cuts the connection, as the application did
        assert isinstance(event, h11.Data)
        received += event.data
        await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
    await send({"type": "http.response.body"})
    return bytes(received)


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    shown = [pair for pair in _unhopped(headers) if pair[0] not in _SAID_TWICE]
    await send({"type": "http.response.start", "status": status, "headers": shown})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    """The whole body of a request."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def _target(scope: Message) -> str:
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _passed_on(headers: Headers, body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The headers of a request, which states the length of its body, however that came."""
    yield from (pair for pair in _unhopped(headers) if pair[0] != b"content-length")
    if body or any(name in (b"content-length", b"transfer-encoding") for name, _ in headers):
        yield b"content-length", b"%d" % len(body)


def _unhopped(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Without those that are for the next neighbour only, and those that ``Connection`` names."""
    pairs = [(bytes(name), bytes(value)) for name, value in headers]
    named = {part.strip().lower() for name, value in pairs if name == b"connection" for part in value.split(b",")}
    return [pair for pair in pairs if pair[0] not in _OWN | named]


def _encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
