"""Sockets: each sends what arrives in its user's inbox, and none of them keeps anybody else waiting, nor the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, cast

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from reference_impl.connections import Dropped, Event, Inbox, InboxClosed
from reference_impl.metrics import Metrics
from reference_impl.settings import Settings

# An extension of the scope: what closes the connection at once, whatever it has not sent yet.
ABORT = "reference_impl.abort"

_GOODBYE_S = 1.0


class Sockets:
    """Sends to sockets.

    Args:
        settings: batches, and how long a socket may take for one message.
        metrics: where events are counted that cannot be sent.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._sending: dict[WebSocket, float] = {}

    async def converse(self, websocket: WebSocket, inbox: Inbox) -> None:
        """Send until the user leaves, the inbox ends or the socket is too slow; what the user says is not listened to.

        Args:
            websocket: accepted.
            inbox: of its user.
        """
        works: list[Coroutine[Any, Any, tuple[int, str] | None]] = [
            self._send(websocket, inbox),
            _left(websocket),
            self._grown_slow(websocket),
        ]
        tasks = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before anything else is sent: who waits for a slow socket keeps the place.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        ends = [end for task in done if (end := task.result()) is not None]
        if len(ends) == len(done):  # nobody to whom it would be said otherwise
            await _close(websocket, *ends[0])

    async def _send(self, websocket: WebSocket, inbox: Inbox) -> tuple[int, str] | None:
        """Send what arrives; the code and the reason for which it ended, or None if nobody is there any more."""
        settings = self._settings
        while True:
            try:
                if settings.batch_events:
                    events = await inbox.receive_batch(settings.batch_size, settings.batch_wait_s)
                else:
                    events = [await inbox.receive()]
            except InboxClosed:
                return 1001, "the server is going away"
            self._sending[websocket] = perf_counter()
            try:
                await websocket.send({"type": "websocket.send", "text": self._written(events)})
            except WebSocketDisconnect:
                return None
            finally:
                del self._sending[websocket]

    async def _grown_slow(self, websocket: WebSocket) -> tuple[int, str]:
        """Wait until the socket takes too long for one message; cheaper than a timer for every message."""
        patience_s = self._settings.socket_timeout_s
        while True:
            since = self._sending.get(websocket)
            if since is not None and perf_counter() - since > patience_s:
                return 1013, "too slow"
            await asyncio.sleep(patience_s / 2)

    def _written(self, events: Sequence[Event]) -> str:
        """One event as JSON, or several as a list."""
        try:
            return orjson.dumps(events if len(events) > 1 else events[0]).decode()
        except TypeError:  # one of them, and the others are none the worse for it
            texts = [self._written_or_named(event) for event in events]
            return f"[{','.join(texts)}]" if len(texts) > 1 else texts[0]

    def _written_or_named(self, event: Event) -> str:
        try:
            return orjson.dumps(event).decode()
        except TypeError:
            self._metrics.count("events.unwritable")
            dropped = Dropped()
            dropped.add(event)
            return orjson.dumps(dropped.notice("it cannot be written as JSON")).decode()


async def _left(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Say goodbye, and cut off whoever does not take it: what the socket has not read would be kept for ever."""
    try:
        async with asyncio.timeout(_GOODBYE_S):
            with suppress(WebSocketDisconnect):
                await websocket.close(code, reason)
    except TimeoutError:
        abort = cast("Callable[[], Any] | None", websocket.scope.get("extensions", {}).get(ABORT))
        if abort is not None:
            abort()
