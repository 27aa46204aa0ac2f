"""Serves an ASGI application by uvicorn, in this process, in a thread and an event loop of its own.

So the tests may run on asyncio, on trio, or on no loop at all.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from socket import socket
from typing import Any

import uvicorn

from pytest_isolation.errors import IsolationWarning, MisuseError
from pytest_isolation.loops import SERVED
from pytest_isolation.targets.loopback import listening_socket, url_of
from pytest_isolation.targets.marks import Who, take_from_headers

_STARTING_S, _CLOSING_S, _CANCELLING_S = 60.0, 10.0, 1.0
_LAST_REQUESTS_S = 2  # what is still under way when a test has ended is nobody's any more
_TICK_S = 0.1  # as uvicorn counts: ten to a second
_TURNS, _TURN_S = 10, 0.001  # so long the last clients may take to be gone
_KEPT_S = 75  # longer than any client keeps a connection, so that none is closed as it is used

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiServer:
    """An ASGI application on a free port of 127.0.0.1, with its lifespan.

    Args:
        app: the application.
        who: tells whose a request is; None hands over all that it bears.

    Attributes:
        url: where it is.
        hears_marks: it does.

    Raises:
        MisuseError: it does not start.
    """

    def __init__(self, app: Callable[..., Any], who: Who | None = None) -> None:
        self.hears_marks = who is not None
        self._lifespan = _Lifespan(app, who)
        self._ready = threading.Event()
        self._broken: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        # Without a configuration of its own for logging, which would be one for the whole process.
        config = uvicorn.Config(
            self._lifespan,
            interface="asgi3",
            log_config=None,
            timeout_keep_alive=_KEPT_S,
            timeout_graceful_shutdown=_LAST_REQUESTS_S,
        )
        self._server = _Server(config, self._ready)
        self._listening = listening_socket()
        self.url = url_of(self._listening)
        self._thread = threading.Thread(target=self._run, name="isolation_app", daemon=True)
        self._thread.start()
        try:
            is_ready = self._ready.wait(_STARTING_S)
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if not self._server.started:
            self.close()
            raise MisuseError(self._why(is_ready)) from (self._lifespan.error or self._broken)

    def close(self) -> None:
        """Have the lifespan end, and wait for the thread.

        Raises:
            MisuseError: the application failed as it shut down.
        """
        was_serving = self._server.started
        self._server.end()
        if not was_serving:
            self._cancel()
        self._thread.join(_CLOSING_S)
        if self._thread.is_alive():
            self._cancel()
            self._thread.join(_CANCELLING_S)
            warnings.warn(
                f"isolation_app did not end within {_CLOSING_S:g} s and was cancelled"
                + ("; something in it blocks its event loop, and runs on" if self._thread.is_alive() else ""),
                IsolationWarning,
                stacklevel=2,
            )
        elif was_serving and self._lifespan.failed:
            raise MisuseError(f"isolation_app failed as it shut down{self._lifespan.text}") from self._lifespan.error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except SystemExit:  # uvicorn's word for an application that does not start
            pass
        except BaseException as error:  # it is raised in the thread that asked for the application
            self._broken = error
        finally:
            self._listening.close()
            self._ready.set()

    async def _serve(self) -> None:
        self._task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if self.hears_marks:
            SERVED.add(loop)
        try:
            await self._server.serve(sockets=[self._listening])
        finally:
            SERVED.discard(loop)

    def _cancel(self) -> None:
        if self._task is not None:
            with suppress(RuntimeError):  # it has ended meanwhile, and its loop is closed
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _why(self, is_ready: bool) -> str:
        if not is_ready:
            return f"isolation_app is not ready after {_STARTING_S:g} s: its lifespan has not completed its startup"
        if self._broken is not None:
            return f"isolation_app could not be served: {type(self._broken).__name__}: {self._broken}"
        return f"isolation_app did not start{self._lifespan.text}"


class _Server(uvicorn.Server):
    """Says when it is ready, and ends as soon as it is told to; in a thread it leaves signals alone."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._ready.set()

    async def main_loop(self) -> None:
        """As the base's, which sees only when it next looks that it should exit."""
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864_000
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._told.wait()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """As the base's, which waits a tick also where every client has gone."""
        for _ in range(_TURNS):
            if not self.server_state.connections:
                break
            await asyncio.sleep(_TURN_S)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        await self.lifespan.shutdown()

    def end(self) -> None:
        """Have it exit; from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended meanwhile, and its loop is closed
                self._loop.call_soon_threadsafe(self._told.set)


class _Lifespan:
    """Hands over to the application, and keeps what it says when its startup or shutdown fails."""

    def __init__(self, app: Callable[..., Any], who: Who | None) -> None:
        self._app = app
        self._who = who
        self._said = ""
        self.failed = False
        self.error: Exception | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            if self._who is not None:
                scope["headers"] = take_from_headers([*scope.get("headers", ())], self._who)
            await self._app(scope, receive, send)
            return

        async def heard(message: Message) -> None:
            if message["type"].endswith(".failed"):
                self.failed, self._said = True, str(message.get("message") or "")
            await send(message)

        try:
            await self._app(scope, receive, heard)
        except Exception as error:
            self.error = error
            raise

    @property
    def text(self) -> str:
        """The application's own words."""
        said = self._said or (f"{type(self.error).__name__}: {self.error}" if self.error else "")
        return f":\n{said.rstrip()}" if said else ""
