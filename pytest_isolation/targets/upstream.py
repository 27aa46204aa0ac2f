"""The proxy's side towards the application: few connections over which the requests of all users go.

Every request has an h11 connection of its own, which writes and reads it, whatever TCP connection that goes over: h11
itself does not pipeline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import h11

_MOST_IN_A_ROW = 8
_GATHERING_S = 0.002  # who comes within this time is sent along
LONG_S = 0.5  # an answer that takes longer is a stream, and may never end
_CHUNK = 2**16
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})  # idempotent (RFC 9110, section 9.2.2)


class NoAnswer(Exception):
    """The application closed the connection before the end of its answer, or that was no HTTP."""


@dataclass(slots=True)
class Exchange:
    """A request, and what comes back.

    Attributes:
        request: as it is sent.
        body: of the request.
        events: the head of the response, its parts, None at its end; or what went wrong.
        has_begun: some of the answer is here, so that the request must not be sent again.
        cut: ends its answer, once that has its turn.
    """

    request: h11.Request
    body: bytes
    events: asyncio.Queue[h11.Response | h11.Data | NoAnswer | None] = field(default_factory=asyncio.Queue)
    has_begun: bool = False
    cut: Callable[[], None] = lambda: None

    def written(self, parser: h11.Connection) -> bytes:
        """The request as it goes over the wire."""
        parts = (self.request, h11.Data(data=self.body), h11.EndOfMessage())
        return b"".join(parser.send(part) or b"" for part in parts)


class Upstream:
    """A pool of connections: who has waited longest is served by the first that is free.

    A stream holds a connection, and would starve everybody else: there is one more for as long as it lasts.

    Args:
        host: of the application.
        port: of the application.
        connections: how many there are.
        pipeline: what comes together goes out in one piece.
    """

    def __init__(self, host: str, port: int, connections: int, pipeline: bool) -> None:
        self._host, self._port = host, port
        self._pipeline = pipeline
        self._waiting: deque[Exchange] = deque()
        self._arrived = asyncio.Semaphore(0)
        self._tasks = {asyncio.create_task(self._serve()) for _ in range(connections)}
        self._idle: set[asyncio.Task[None]] = set()  # of those that there are only for streams
        self._surplus = 0  # so many of them are still busy, and not needed any more

    def begin_stream(self) -> None:
        """An answer goes on for long: have one connection more."""
        if self._surplus:
            self._surplus -= 1
            return
        task = asyncio.create_task(self._serve(is_extra=True))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end_stream(self) -> None:
        """It has ended: close one of those, as soon as it is idle; the others have what users left in them."""
        if self._idle:
            self._idle.pop().cancel()
        else:
            self._surplus += 1

    def send(self, exchange: Exchange) -> None:
        """Have a request sent when its turn comes."""
        self._waiting.append(exchange)
        self._arrived.release()

    async def aclose(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, is_extra: bool = False) -> None:
        """Send what is waiting over one connection, for as long as it is needed."""
        connection = _Connection(self._host, self._port, self)
        try:
            while not (is_extra and self._surplus):
                await self._next(is_extra)
                if self._pipeline:
                    await asyncio.sleep(_GATHERING_S)
                if self._waiting:  # another connection may have taken it along
                    await connection.play(self._together())
            self._surplus -= 1
        finally:
            connection.close()

    async def _next(self, is_extra: bool) -> None:
        """Wait for a request."""
        task = asyncio.current_task()
        assert task is not None
        if is_extra:
            self._idle.add(task)
        try:
            await self._arrived.acquire()
        finally:
            self._idle.discard(task)

    def _together(self) -> deque[Exchange]:
        """What goes out in one piece: one request, or some that may be repeated."""
        batch = deque([self._waiting.popleft()])
        while (
            self._pipeline
            and self._waiting
            and len(batch) < _MOST_IN_A_ROW
            and {batch[0].request.method, self._waiting[0].request.method} <= _REPEATABLE
        ):
            batch.append(self._waiting.popleft())
        return batch


class _Connection:
    """One connection to the application; it is opened when it is needed, and again when it was closed."""

    def __init__(self, host: str, port: int, upstream: Upstream) -> None:
        self._host, self._port, self._upstream = host, port, upstream
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Close it, if it is open."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def play(self, batch: deque[Exchange]) -> None:
        """Send requests in one piece, and hand out the answers in order.

        An application may close a connection that was idle just as it is used; then, and when it closes one between two
        answers, what has had no answer goes over a new one.
        """
        while batch:
            was_open, waiting = self._streams is not None, len(batch)
            try:
                await self._attempt(batch)
            except (OSError, h11.RemoteProtocolError, NoAnswer) as error:
                self.close()
                worked = was_open or len(batch) < waiting
                if not worked or batch[0].has_begun:
                    batch.popleft().events.put_nowait(NoAnswer(f"{type(error).__name__}: {error}".rstrip(": ")))

    async def _attempt(self, batch: deque[Exchange]) -> None:
        """Take those off the batch that were answered before the connection was closed."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        parsers = [h11.Connection(h11.CLIENT) for _ in batch]
        writer.write(b"".join(exchange.written(parser) for exchange, parser in zip(batch, parsers, strict=True)))
        await writer.drain()
        ahead = b""
        for parser in parsers:
            if ahead:
                parser.receive_data(ahead)
            batch[0].cut = writer.close
            await _receive(reader, parser, batch[0], self._upstream)
            batch.popleft().cut = lambda: None
            ahead = parser.trailing_data[0]
            if parser.their_state is not h11.DONE:
                self.close()
                return


async def _receive(
    reader: asyncio.StreamReader, parser: h11.Connection, exchange: Exchange, upstream: Upstream
) -> None:
    """Hand over an answer as it comes; say if it goes on for long, and when that is over."""
    timer: asyncio.TimerHandle | None = None
    is_stream = False

    def begin() -> None:
        nonlocal is_stream
        is_stream = True
        upstream.begin_stream()

    try:
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Response | h11.Data):
                timer = timer or asyncio.get_running_loop().call_later(LONG_S, begin)
                exchange.has_begun = True
                exchange.events.put_nowait(event)
            elif isinstance(event, h11.EndOfMessage):
                exchange.events.put_nowait(None)
                return
            elif isinstance(event, h11.ConnectionClosed):
                raise NoAnswer("the connection was closed")
    finally:
        if timer is not None:
            timer.cancel()
        if is_stream:
            upstream.end_stream()
