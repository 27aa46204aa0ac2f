"""Serves a WSGI application as gthread workers do: connections are kept, and a few threads serve all of them.

A thread answers a request of one user after that of another, so what an application leaves in it is found.
"""

from __future__ import annotations

import io
import logging
import socket
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from queue import SimpleQueue
from selectors import EVENT_READ, DefaultSelector
from time import monotonic
from typing import IO, Any, cast
from wsgiref.headers import Headers
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from pytest_isolation.errors import IsolationWarning
from pytest_isolation.targets.loopback import HOST, listening_socket, url_of
from pytest_isolation.targets.marks import Who, taken_from_environ

_WORKERS = 4
_CLOSING_S = 5.0
_LONGEST_LINE = 65537
_LOG = logging.getLogger("pytest_isolation.wsgi")


class WsgiServer:
    """A WSGI application on a free port of 127.0.0.1.

    Args:
        app: the application.
        workers: how many threads answer.
        who: tells whose a request is.

    Attributes:
        url: where it is.
        app: the application.
        who: tells whose a request is; None where nobody does.
        hears_marks: somebody does.
        base_environ: what is the same in every request.
    """

    def __init__(self, app: Callable[..., Any], workers: int = _WORKERS, who: Who | None = None) -> None:
        self.app = app
        self.who = who
        self.hears_marks = who is not None
        self._listening = listening_socket()
        self.url = url_of(self._listening)
        port = str(self._listening.getsockname()[1])
        self.base_environ = {
            "SERVER_NAME": HOST,
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PORT": port,
            "REMOTE_HOST": "",
            "CONTENT_LENGTH": "",
            "SCRIPT_NAME": "",
        }
        self._ready: SimpleQueue[_Connection | None] = SimpleQueue()
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._wake, self._woken = socket.socketpair()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"isolation_app-{number}", daemon=True)
            for number in range(workers)
        ]
        self._threads.append(threading.Thread(target=self._watch, name="isolation_app", daemon=True))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Close all connections, and wait for the threads."""
        self._closing = True
        self._wake.send(b"!")
        deadline = monotonic() + _CLOSING_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            warnings.warn(
                f"isolation_app did not end within {_CLOSING_S:g} s; a request is still being answered",
                IsolationWarning,
                stacklevel=2,
            )
        for connection in list(self._open):
            connection.end()
        self._wake.close()
        self._woken.close()

    def _watch(self) -> None:
        try:
            with self._listening, DefaultSelector() as selector:
                self._hand_out(selector)
        finally:
            for connection in list(self._open):
                connection.interrupt()
            for _ in self._threads:
                self._ready.put(None)

    def _hand_out(self, selector: DefaultSelector) -> None:
        """Accept connections, and hand over each on which a request begins."""
        selector.register(self._listening, EVENT_READ)
        selector.register(self._woken, EVENT_READ)
        while not self._closing:
            for key, _ in selector.select():
                if key.fileobj is self._listening:
                    connection = _Connection(*self._listening.accept(), self)
                    self._open.add(connection)
                    selector.register(connection.request, EVENT_READ, connection)
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                    while self._idle:
                        connection = self._idle.popleft()
                        selector.register(connection.request, EVENT_READ, connection)
                else:
                    selector.unregister(key.fileobj)
                    self._ready.put(key.data)

    def _work(self) -> None:
        while (connection := self._ready.get()) is not None:
            kept = False
            try:
                kept = connection.answer() and not self._closing
            except OSError:  # the client is gone, or we are closing
                pass
            except Exception:
                _LOG.exception("a request could not be answered")
            finally:
                if kept:
                    self._idle.append(connection)
                    self._wake.send(b"!")
                else:
                    self._open.discard(connection)
                    connection.end()


class _Connection(WSGIRequestHandler):
    """One connection, on which requests come one after another, each answered by whatever thread is free."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: WsgiServer  # type: ignore[assignment]

    def __init__(self, request: socket.socket, client_address: tuple[str, int], server: WsgiServer) -> None:
        # Not the base's: that one would answer all requests of the connection, in the thread that accepts it.
        self.request, self.client_address, self.server = request, client_address, server
        self.setup()

    def answer(self) -> bool:
        """Answer what has come; whether the connection is kept."""
        while self._answer_one():
            self.connection.setblocking(False)
            is_pipelined = bool(self.rfile.peek(1))  # type: ignore[attr-defined]
            self.connection.setblocking(True)
            if not is_pipelined:
                return True
        return False

    def _answer_one(self) -> bool:
        self.raw_requestline = self.rfile.readline(_LONGEST_LINE)
        if not self.raw_requestline or not self.parse_request():
            return False
        is_chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        body = b"".join(self._chunks()) if is_chunked else self.rfile.read(int(self.headers.get("content-length") or 0))
        environ = {**self.get_environ(), "CONTENT_LENGTH": str(len(body))}
        output, errors = cast("IO[bytes]", self.wfile), self.get_stderr()
        answer = _Answer(io.BytesIO(body), output, errors, environ, multithread=True, multiprocess=False)
        answer.request_handler = self
        with nullcontext() if self.server.who is None else taken_from_environ(environ, self.server.who):
            answer.run(self.server.app)
        return answer.leaves_open and not self.close_connection

    def _chunks(self) -> Iterator[bytes]:
        """WSGI knows no body without a length, so it is read before."""
        while size := int(self.rfile.readline(_LONGEST_LINE).partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline(_LONGEST_LINE)
        while self.rfile.readline(_LONGEST_LINE).strip():
            pass  # trailers

    def interrupt(self) -> None:
        """Have whoever reads from it go on."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Close it."""
        with suppress(OSError):
            self.finish()
        self.interrupt()
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """A request is no news."""


class _Answer(ServerHandler):
    """One answer, after which the connection stays open if its end can be told."""

    http_version = "1.1"
    leaves_open = True
    request_handler: WSGIRequestHandler
    environ: dict[str, Any]
    headers: Headers

    def cleanup_headers(self) -> None:
        super().cleanup_headers()
        if self.environ["REQUEST_METHOD"] == "HEAD" or "Content-Length" not in self.headers:
            self.leaves_open = False
        if not self.leaves_open:
            self.headers["Connection"] = "close"

    def log_exception(self, exc_info: Any) -> None:
        self.leaves_open = False
        _LOG.error("the application raised an error", exc_info=exc_info)
