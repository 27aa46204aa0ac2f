"""Three servers that send an event to each of a hundred users when they are told to: ours, Starlette's way, bare."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from websockets.asyncio.server import serve

from reference_impl.app import Application
from reference_impl.backend import ReferenceBackend
from reference_impl.settings import Settings

EVENT = {"kind": "agent_thinking", "about": "x" * 200, "sequence": 1, "at": 1_700_000_000.123}


def starlette():
    """As most people write it: a table of sockets, and ``send_json`` for each."""
    sockets = {}

    async def listen(websocket):
        await websocket.accept()
        user = websocket.query_params["user"]
        sockets[user] = websocket
        async for word in websocket.iter_text():
            if word == "go":
                for name, other in list(sockets.items()):
                    if name != "control":
                        await other.send_json({**EVENT, "to": name})

    return Starlette(routes=[WebSocketRoute("/ws", listen)])


def ours():
    """The application itself; a control socket stands in for a request of every user."""
    application = Application(ReferenceBackend(Settings(token_secret="benchmark", lazy_start=True)))
    app, backend = application.starlette(), application.backend

    async def control(websocket):
        await websocket.accept()
        async with contextlib.AsyncExitStack() as stack:
            requests = {}
            async for word in websocket.iter_text():
                if word != "go":
                    requests = {user: await stack.enter_async_context(backend.request(user)) for user in word.split()}
                    continue
                for user, request in requests.items():
                    await request.emit("agent_thinking", {**EVENT, "to": user})

    app.router.routes.insert(0, WebSocketRoute("/control", control))
    return app


async def bare(port):
    """The library alone, with the same encoder."""
    sockets = {}

    async def listen(websocket):
        user = websocket.request.path.partition("user=")[2]
        sockets[user] = websocket
        async for word in websocket:
            if word == "go":
                for name, other in list(sockets.items()):
                    if name != "control":
                        await other.send(orjson.dumps({**EVENT, "to": name}).decode())

    async with serve(listen, "127.0.0.1", port, compression=None):
        await asyncio.Future()


if __name__ == "__main__":
    name, port = sys.argv[1], int(sys.argv[2])
    if name == "bare":
        asyncio.run(bare(port))
    else:
        uvicorn.run(
            {"ours": ours, "starlette": starlette}[name](),
            port=port,
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            log_level="warning",
        )
