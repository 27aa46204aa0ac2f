"""The application: chat over HTTP, events over WebSocket, metrics, health, static files.

Whatever belongs to a user says so to every cache on the way (``private``, ``no-store``, ``Vary``); what belongs to
nobody may be kept at the edge.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import orjson
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from reference_impl.agents import Agent
from reference_impl.alerts import Alert, Alerts
from reference_impl.backend import ReferenceBackend
from reference_impl.broker import Broker
from reference_impl.connections import Connection, Connections
from reference_impl.emitters import PoolExhausted
from reference_impl.export import CONTENT_TYPE, exposition
from reference_impl.factory import AgentTimeout
from reference_impl.metrics import Metrics
from reference_impl.settings import Settings, from_environment
from reference_impl.sockets import Sockets
from reference_impl.tokens import Tokens, Unauthorised

_log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
PERSONAL = {"cache-control": "private, no-store", "vary": "Authorization, Cookie"}
PUBLIC = {"cache-control": "public, max-age=300, s-maxage=86400, stale-while-revalidate=600"}
_LARGEST = 64 * 1024
_ALERTS_SHOWN = 10
_ROTATION_S = 60.0
_PAUSE_S = 0.01
_PROTOCOL = "isolation.token."


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As bytes."""
        return orjson.dumps(content)


class Served(Protocol):
    """A backend that the application can serve."""

    settings: Settings
    metrics: Metrics
    connections: Connections
    broker: Broker

    @property
    def gauges(self) -> Mapping[str, float]:
        """What is known besides the metrics."""

    async def start(self) -> None:
        """Begin to serve."""

    async def aclose(self) -> None:
        """Give everything back."""

    def request(self, user_id: str, *, thread_id: str | None = None) -> AbstractAsyncContextManager[Any]:
        """The scope of one request."""

    def connect(self, user_id: str) -> Connection:
        """Let a user listen."""


class Application:
    """The endpoints over one backend.

    Args:
        backend: it is started and closed with the application.

    Attributes:
        backend: see above.
        tokens: who somebody is.
        alerts: what takes too long.
    """

    def __init__(self, backend: Served) -> None:
        self.backend = backend
        self.tokens = Tokens(backend.settings.token_secret)
        self.alerts = Alerts(backend.metrics, callback=_warn)
        self._draining = False
        self._open: Counter[str] = Counter()
        self._sockets = Sockets(backend.settings, backend.metrics)

    def starlette(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/chat", self.chat, methods=["POST"]),
            Route("/messages", self.messages),
            WebSocketRoute("/ws", self.socket),
            Route("/metrics", self.metrics),
            Route("/healthz", self.health),
            Mount("/static", EdgeCached(directory=STATIC)),
        ]
        app = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=_HANDLERS)
        app.state.application = self
        app.add_middleware(Personal)
        app.add_middleware(UnderWay, count=self._open)
        return app

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        await self.backend.start()
        rotation = asyncio.create_task(_rotate(self.backend.metrics))
        try:
            yield
        finally:
            rotation.cancel()
            await self.backend.aclose()

    async def drain(self) -> None:
        """Take no new sockets, answer what is under way, and then let sockets send what they have and end.

        It waits for all of them; whoever calls it says for how long.
        """
        self._draining = True
        await self._none_of("http")
        self.backend.connections.close()
        await self._none_of("websocket")

    async def _none_of(self, kind: str) -> None:
        while self._open[kind]:  # noqa: ASYNC110 - once in the life of a server, and nobody is in a hurry
            await asyncio.sleep(_PAUSE_S)

    async def chat(self, request: Request) -> Response:
        """``POST /chat {"message": …, "thread": …, "agent": …}`` answers ``{"answer": …}``."""
        user_id = self._user(request)
        data = await _body(request)
        message, thread, agent = data.get("message"), data.get("thread"), data.get("agent", "chat")
        if not isinstance(message, str) or not isinstance(agent, str):
            raise HTTPException(422, 'the body is {"message": "a text"}, with "agent" and "thread" at will')
        if thread is not None and (not isinstance(thread, str) or not thread.strip()):
            raise HTTPException(422, '"thread" is a text')
        timed = self.backend.metrics.timed_operation("api.request", {"endpoint": "/chat"})
        async with timed, self.backend.request(user_id, thread_id=thread) as scope:
            answer = await (await _agent(scope, agent)).run(message)
        return Json({"answer": answer})

    async def messages(self, request: Request) -> Response:
        """``GET /messages`` answers everything that the user has said."""
        user_id = self._user(request)
        timed = self.backend.metrics.timed_operation("api.request", {"endpoint": "/messages"})
        async with timed, self.backend.request(user_id) as scope, scope.session() as session:
            texts = await session.load()
        return Json({"messages": list(texts)})

    async def socket(self, websocket: WebSocket) -> None:
        """``WS /ws`` sends the user's events, each as a JSON text, or several of them as a JSON list."""
        with self.backend.metrics.timed_operation("socket.open"):
            try:
                user_id = self._user(websocket)
            except HTTPException:
                await websocket.close(4401, "no valid token")
                return
            if self._draining:
                await websocket.close(1012, "the server restarts")
                return
            connection = self.backend.connect(user_id)
            inbox = await connection.__aenter__()
        try:
            await websocket.accept(_offered(websocket))
            await self._sockets.converse(websocket, inbox)
        finally:
            await connection.__aexit__(None, None, None)

    async def metrics(self, _request: Request) -> Response:
        """``GET /metrics`` for Prometheus."""
        # In a thread: with many tags it takes milliseconds, and nobody's request has to wait for it.
        text = await asyncio.to_thread(exposition, self.backend.metrics, self.backend.gauges)
        return Response(text, media_type=CONTENT_TYPE, headers=_NO_STORE)

    async def health(self, _request: Request) -> Response:
        """``GET /healthz``: 200 while it serves, 503 while it ends."""
        summary = self.alerts.summary()
        content = {
            "status": "draining" if self._draining else "serving",
            "health": summary.health,
            "missed": [row.name for row in summary.rows if row.kept is False],
            "alerts": [_shown(alert) for alert in self.alerts.latest[-_ALERTS_SHOWN:]],
            "broker": self.backend.broker.figures.connected,
        }
        return Json(content, status_code=503 if self._draining else 200, headers=_NO_STORE)

    def _user(self, connection: HTTPConnection) -> str:
        """Who asks.

        Raises:
            HTTPException: nobody that we know.
        """
        with self.backend.metrics.timed_operation("authenticate"):
            scheme, _, token = connection.headers.get("authorization", "").partition(" ")
            if not token:
                token = next((name.removeprefix(_PROTOCOL) for name in _protocols(connection)), "")
            elif scheme.lower() != "bearer":
                raise HTTPException(401, "Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})
            try:
                return self.tokens.read(token)
            except Unauthorised:
                raise HTTPException(401, "no valid token", {"www-authenticate": "Bearer"}) from None


_NO_STORE = {"cache-control": "no-store"}


class EdgeCached(StaticFiles):
    """Files that are the same for everybody, and may be kept by every cache."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """A file with its headers."""
        response = super().file_response(*args, **options)
        response.headers.update(PUBLIC)
        return response


class Personal:
    """Marks every answer as personal that does not say otherwise: forgetting it must not be a leak.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "cache-control" not in headers:
                    headers.update(PERSONAL)
            await send(message)

        await self._app(scope, receive, marked if scope["type"] == "http" else send)


class UnderWay:
    """Counts what is being answered, so that the end can wait for it.

    Args:
        app: the application.
        count: by the kind of connection.
    """

    def __init__(self, app: ASGIApp, count: Counter[str]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or one socket."""
        self._count[scope["type"]] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count[scope["type"]] -= 1


async def _agent(scope: Any, name: str) -> Agent:
    """The agent of this name.

    Raises:
        HTTPException: there is none; what an agent itself looks up in vain is another matter.
    """
    try:
        agent: Agent = await scope.agent(name)
    except LookupError as error:
        raise HTTPException(404, str(error)) from None
    return agent


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _exhausted(_request: Request, _error: Exception) -> Response:
    return Json({"error": "too many requests are open"}, status_code=503, headers={"retry-after": "1"})


async def _took_too_long(_request: Request, error: Exception) -> Response:
    return Json({"error": str(error)}, status_code=504)


async def _broke(_request: Request, _error: Exception) -> Response:
    # Outside of every middleware, so it says by itself what Personal would; uvicorn closes the connection.
    return Json({"error": "the server made a mistake"}, status_code=500, headers={**PERSONAL, "connection": "close"})


_HANDLERS: Mapping[Any, Any] = {
    HTTPException: _failed,
    PoolExhausted: _exhausted,
    AgentTimeout: _took_too_long,
    Exception: _broke,
}


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object in the body.

    Raises:
        HTTPException: there is none, or it is too big.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise HTTPException(413, f"a message has at most {_LARGEST} bytes")
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        data = None
    if not isinstance(data, dict):
        raise HTTPException(422, "the body is a JSON object")
    return data


def _protocols(connection: HTTPConnection) -> list[str]:
    """Browsers cannot set a header for a socket, and a token in the address ends up in every log."""
    offered = connection.headers.get("sec-websocket-protocol", "").split(",")
    return [name for part in offered if (name := part.strip()).startswith(_PROTOCOL)]


def _offered(websocket: WebSocket) -> str | None:
    """The protocol to agree to: the one that carried the token."""
    return next(iter(_protocols(websocket)), None)


async def _rotate(metrics: Metrics) -> None:
    """Let what was measured long ago grow old, also while nobody looks."""
    while True:
        await asyncio.sleep(_ROTATION_S)
        metrics.rotate()


def _warn(alert: Alert) -> None:
    more = f", and {alert.suppressed} more since the last one" if alert.suppressed else ""
    _log.warning("%s took %.3g s; its target is %.3g s%s", alert.name, alert.seconds, alert.target_s, more)


def _shown(alert: Alert) -> Mapping[str, object]:
    return {"name": alert.name, "seconds": alert.seconds, "target_s": alert.target_s, "at_s": alert.at_s}


def create_app(settings: Settings | None = None) -> Starlette:
    """The ASGI application: ``uvicorn --factory reference_impl.app:create_app``.

    Args:
        settings: how the backend is built; None asks the environment.
    """
    return Application(ReferenceBackend(settings or from_environment())).starlette()
