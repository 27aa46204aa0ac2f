"""An event to each of a hundred users, over real sockets: from the word to the last one received."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import servers
from websockets.asyncio.client import connect

from reference_impl.tokens import Tokens

USERS = [f"user-{n}" for n in range(100)]
ROUNDS = 60


class Server:
    def __init__(self, name):
        self.name, self.port = name, servers.free_port()
        command = [sys.executable, Path(__file__).with_name("ws_servers.py"), name, str(self.port)]
        self.process = subprocess.Popen(command)
        self.wrong = 0

    async def open(self, stack):
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await writer.wait_closed()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        tokens = Tokens("benchmark")
        self.sockets = []
        for user in USERS:
            headers = {"authorization": f"Bearer {tokens.issue(user)}"}
            url = f"ws://127.0.0.1:{self.port}/ws?user={user}"
            self.sockets.append(
                await stack.enter_async_context(connect(url, additional_headers=headers, compression=None))
            )
        path = "control" if self.name == "ours" else "ws?user=control"
        self.control = await stack.enter_async_context(connect(f"ws://127.0.0.1:{self.port}/{path}", compression=None))
        if self.name == "ours":
            await self.control.send(" ".join(USERS))

    async def burst(self) -> float:
        begun = time.perf_counter()
        await self.control.send("go")
        received = await asyncio.gather(*(socket.recv() for socket in self.sockets))
        seconds = time.perf_counter() - begun
        self.wrong += sum(json.loads(text)["to"] != user for text, user in zip(received, USERS, strict=True))
        return seconds


def test_a_burst_to_a_hundred_users(benchmark, figure):
    """Ours, Starlette's ``send_json``, and the library alone with the same encoder, in turn."""

    async def measure(several):
        async with AsyncExitStack() as stack:
            for server in several:
                await server.open(stack)
            taken = {server.name: [] for server in several}
            for turn in range(ROUNDS):
                for server in several if turn % 2 else reversed(several):
                    taken[server.name].append(await server.burst())
        return taken

    several = [Server(name) for name in ("ours", "starlette", "bare")]
    try:
        taken = asyncio.run(measure(several))
    finally:
        for server in several:
            server.process.terminate()
            server.process.wait()
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, aim in (("starlette", 0.9), ("bare", 1.15)):
        ratio = statistics.median(a / b for a, b in zip(taken["ours"], taken[name], strict=True))
        details = f"{middle['ours'] * 1e3:.2f} / {middle[name] * 1e3:.2f} ms"
        figure(f"event to 100 sockets, first word to last received / {name}", ratio, "×", most=aim, details=details)
    figure("events that reached a wrong user", sum(server.wrong for server in several), "", most=0)
    benchmark.pedantic(lambda: None, rounds=1)
