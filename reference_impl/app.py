"""The application: chat over HTTP, events over WebSocket, metrics, health, static files.

Whatever belongs to a user says so to every cache on the way (``private``, ``no-store``, ``Vary``); what belongs to
nobody may be kept at the edge.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from reference_impl.agents import Agent
from reference_impl.alerts import Alerts
from reference_impl.backend import ReferenceBackend
from reference_impl.connections import Inbox, InboxClosed
from reference_impl.emitters import PoolExhausted
from reference_impl.export import CONTENT_TYPE, exposition
from reference_impl.factory import AgentTimeout, RequestScope
from reference_impl.settings import Settings, from_environment
from reference_impl.tokens import Tokens, Unauthorised

STATIC = Path(__file__).parent / "static"
PERSONAL = {"cache-control": "private, no-store", "vary": "Authorization, Cookie"}
PUBLIC = {"cache-control": "public, max-age=300, s-maxage=86400, stale-while-revalidate=600"}
_LARGEST = 64 * 1024
_SLOW_SOCKET_S = 10.0
_PROTOCOL = "isolation.token."


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As bytes."""
        return orjson.dumps(content)


class Application:
    """The endpoints over one backend.

    Args:
        backend: it is started and closed with the application.

    Attributes:
        backend: see above.
        tokens: who somebody is.
        alerts: what takes too long.
    """

    def __init__(self, backend: ReferenceBackend) -> None:
        self.backend = backend
        self.tokens = Tokens(backend.settings.token_secret)
        self.alerts = Alerts(backend.metrics)
        self._draining = False
        self._sending: dict[WebSocket, float] = {}

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
        app = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers={HTTPException: _failed})
        app.state.application = self
        app.add_middleware(Personal)
        return app

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        await self.backend.start()
        try:
            yield
        finally:
            await self.backend.aclose()

    def drain(self) -> None:
        """Take no new sockets, and let those that are open send what they have and end."""
        self._draining = True
        self.backend.connections.close()

    async def chat(self, request: Request) -> Response:
        """``POST /chat {"message": …, "thread": …, "agent": …}`` answers ``{"answer": …}``."""
        user_id = self._user(request)
        data = await _body(request)
        message, thread, agent = data.get("message"), data.get("thread"), data.get("agent", "chat")
        if not isinstance(message, str) or not isinstance(agent, str):
            raise HTTPException(422, 'the body is {"message": "a text"}, with "agent" and "thread" at will')
        if thread is not None and (not isinstance(thread, str) or not thread.strip()):
            raise HTTPException(422, '"thread" is a text')
        async with self.backend.metrics.timed_operation("api.request", {"endpoint": "/chat"}):
            try:
                async with self.backend.request(user_id, thread_id=thread) as scope:
                    answer = await (await _agent(scope, agent)).run(message)
            except PoolExhausted:
                raise HTTPException(503, "too many requests are open", {"retry-after": "1"}) from None
            except AgentTimeout as error:
                raise HTTPException(504, str(error)) from None
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
            await self._converse(websocket, inbox)
        finally:
            await connection.__aexit__(None, None, None)

    async def _converse(self, websocket: WebSocket, inbox: Inbox) -> None:
        """Send until the user leaves or the server ends; what the user says is not listened to."""
        tasks = [
            asyncio.create_task(work)
            for work in (self._send(websocket, inbox), _left(websocket), self._grown_slow(websocket))
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[1] not in done:
                code, reason = done.pop().result() or (1006, "gone")
                await websocket.close(code, reason)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _grown_slow(self, websocket: WebSocket) -> tuple[int, str]:
        """Wait until the socket takes too long for one message; cheaper than a timer for every message."""
        while True:
            since = self._sending.get(websocket)
            if since is not None and perf_counter() - since > _SLOW_SOCKET_S:
                return 1013, "too slow"
            await asyncio.sleep(_SLOW_SOCKET_S / 2)

    async def _send(self, websocket: WebSocket, inbox: Inbox) -> tuple[int, str]:
        """Send what arrives; the code and the reason for which it ended."""
        settings = self.backend.settings
        while True:
            try:
                if settings.batch_events:
                    batch = await inbox.receive_batch(settings.batch_size, settings.batch_wait_s)
                    content: Any = batch if len(batch) > 1 else batch[0]
                else:
                    content = await inbox.receive()
            except InboxClosed:
                return 1001, "the server is going away"
            self._sending[websocket] = perf_counter()
            try:
                await websocket.send({"type": "websocket.send", "text": orjson.dumps(content).decode()})
            except WebSocketDisconnect:
                return 1006, "gone"
            finally:
                del self._sending[websocket]

    async def metrics(self, _request: Request) -> Response:
        """``GET /metrics`` for Prometheus."""
        # In a thread: with many tags it takes milliseconds, and nobody's request has to wait for it.
        text = await asyncio.to_thread(exposition, self.backend.metrics, self._gauges())
        return Response(text, media_type=CONTENT_TYPE, headers=_NO_STORE)

    async def health(self, _request: Request) -> Response:
        """``GET /healthz``: 200 while it serves, 503 while it ends."""
        summary = self.alerts.summary()
        content = {
            "status": "draining" if self._draining else "serving",
            "health": summary.health,
            "missed": [row.name for row in summary.rows if row.kept is False],
            "broker": self.backend.broker.figures.connected,
        }
        return Json(content, status_code=503 if self._draining else 200, headers=_NO_STORE)

    def _gauges(self) -> Mapping[str, float]:
        """What is known besides the metrics."""
        backend = self.backend
        parts: dict[str, Any] = {
            "emitters": backend.pool.figures,
            "classes": backend.registry.figures,
            "database": backend.database.figures,
            "broker": backend.broker.figures,
        }
        gauges = {
            f"{part}.{name}": float(value) for part, figures in parts.items() for name, value in asdict(figures).items()
        }
        return {**gauges, "sockets.open": len(backend.connections), "start.seconds": backend.started_s}

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


async def _agent(scope: RequestScope, name: str) -> Agent:
    """The agent of this name.

    Raises:
        HTTPException: there is none; what an agent itself looks up in vain is another matter.
    """
    try:
        return await scope.agent(name)
    except LookupError as error:
        raise HTTPException(404, str(error)) from None


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": error.detail}, status_code=error.status_code, headers=error.headers)


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


async def _left(websocket: WebSocket) -> tuple[int, str] | None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
    return None


def create_app(settings: Settings | None = None) -> Starlette:
    """The ASGI application: ``uvicorn --factory reference_impl.app:create_app``.

    Args:
        settings: how the backend is built; None asks the environment.
    """
    return Application(ReferenceBackend(settings or from_environment())).starlette()
