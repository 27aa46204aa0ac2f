"""The application on uvicorn, and its gentle end.

The order of the end: nobody new is let in; what is under way is answered, and its events are in the inboxes; then the
inboxes are closed, sockets send what is left, and say goodbye; only then ends uvicorn, which would cut sockets first.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from math import ceil
from time import monotonic
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from reference_impl.app import Application, Served
from reference_impl.sockets import ABORT

_END_S = 30
_PAUSE_S = 0.02


class Socket(WebSocketsSansIOProtocol):
    """A connection that the application can cut."""

    def handle_connect(self, event: Any) -> None:
        """Tell the application how, before it is asked."""
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)  # there is none if the handshake was refused
        if scope is not None:
            scope["extensions"][ABORT] = self.transport.abort


class Server(uvicorn.Server):
    """Ends gently, within half a minute; a second Ctrl-C ends it at once.

    Args:
        config: of uvicorn.
        application: what it serves.
    """

    def __init__(self, config: uvicorn.Config, application: Application) -> None:
        super().__init__(config)
        self._application = application

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, and then end as uvicorn does."""
        deadline = monotonic() + _END_S
        for listener in self.servers:
            listener.close()
        await asyncio.sleep(_PAUSE_S)  # what has arrived by now is under way
        for connection in list(self.server_state.connections):
            if not isinstance(connection, Socket):
                connection.shutdown()  # as soon as what it is at is answered
        await self._until(deadline, self._application.drain())
        patience_s = self._application.backend.settings.socket_timeout_s
        await self._until(min(deadline, monotonic() + patience_s), self._sent())
        for connection in self._unsent():
            connection.transport.abort()
        self.config.timeout_graceful_shutdown = max(1, ceil(deadline - monotonic()))
        await super().shutdown(sockets)

    async def _until(self, deadline: float, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        while not task.done() and not self.force_exit and monotonic() < deadline:
            await asyncio.wait([task], timeout=_PAUSE_S)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _sent(self) -> None:
        while self._unsent():  # noqa: ASYNC110 - a transport has no event for it
            await asyncio.sleep(_PAUSE_S)

    def _unsent(self) -> list[Socket]:
        connections = [one for one in self.server_state.connections if isinstance(one, Socket)]
        return [one for one in connections if one.transport.get_write_buffer_size()]


def serve(backend: Served, *, host: str = "127.0.0.1", port: int = 8000) -> bool:
    """Serve a backend until SIGTERM or Ctrl-C.

    Args:
        backend: it may have agents of its own by now (``backend.registry.register``).
        host: where to listen.
        port: where to listen; 0 picks one.

    Returns:
        It has served at all: the port was free, and the backend could be started.
    """
    application = Application(backend)
    config = uvicorn.Config(
        application.starlette(),
        host=host,
        port=port,
        ws=Socket,
        ws_per_message_deflate=False,  # half the cost of an event, and a way to guess secrets from lengths
        timeout_graceful_shutdown=_END_S,
        log_level="info",
    )
    server = Server(config, application)
    with contextlib.suppress(KeyboardInterrupt):  # raised again once everything has ended
        server.run()
    return server.started
