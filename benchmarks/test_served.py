"""A thousand users of the served application: a socket each, one request a second each, judged by its own metrics.

How long a client of this process waits would say how busy this process is; the server's own figures say what it did.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import resource
import subprocess
import sys
import threading
import time
from contextlib import AsyncExitStack, contextmanager
from subprocess import DEVNULL, PIPE

import pytest
import servers
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from reference_impl.alerts import TARGETS_S
from reference_impl.tokens import Tokens

SECRET, SECONDS = "benchmark", 5
# What a client asks for in turn: most users read, some write, and are sent five events.
WRITES_EACH = 10


@contextmanager
def application(database_url: str):
    """``python -m reference_impl`` as a process; its port."""
    environment = {
        **os.environ,
        "REFERENCE_TOKEN_SECRET": SECRET,
        "REFERENCE_DATABASE_URL": database_url,
        "REFERENCE_SAMPLE_RATE": "1",  # every request is timed in stages
    }
    command = [sys.executable, "-m", "reference_impl", "--port", "0"]
    process = subprocess.Popen(command, env=environment, stdout=DEVNULL, stderr=PIPE, text=True)
    found: queue.Queue[int] = queue.Queue()

    def read() -> None:
        """To the end, or what it says of a thousand sockets would fill the pipe and stop it."""
        for line in process.stderr:
            if match := re.search(r"running on http://[\d.]+:(\d+)", line):
                found.put(int(match[1]))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield found.get(timeout=60)
    finally:
        process.terminate()
        process.wait(timeout=60)
        reader.join()
        process.stderr.close()


class Caller:
    """A user's own connection, and as little of HTTP as will do: a full client would be all that is measured."""

    def __init__(self, user: str) -> None:
        self.user, self.token = user, Tokens(SECRET).issue(user)
        self.turn = asyncio.Lock()  # a server that is overloaded is asked again when it has answered

    async def open(self, port: int, stack: AsyncExitStack) -> None:
        headers = {"authorization": f"Bearer {self.token}"}
        url = f"ws://127.0.0.1:{port}/ws"
        self.socket = await stack.enter_async_context(connect(url, additional_headers=headers, compression=None))
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(self.writer.close)

    async def ask(self, writes: bool) -> str:
        body = json.dumps({"message": f"of {self.user}"}).encode() if writes else b""
        line = "POST /chat" if writes else "GET /messages"
        head = (
            f"{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.token}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        status, *fields = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(field.partition(":")[2]) for field in fields if field.startswith("content-length:"))
        answer = (await self.reader.readexactly(length)).decode()
        assert " 200 " in status, (status, answer)
        return answer

    async def listen(self, wrong: list[str]) -> None:
        async for text in self.socket:
            event = json.loads(text)
            told = event.get("user") or event.get("answer") or event.get("about") or self.user
            if self.user not in str(told):
                wrong.append(text)


async def drive(port: int, users: int) -> tuple[dict[str, float], int]:
    """The p95 of every stage in seconds, as the server tells it, and how many events reached somebody else."""
    wrong: list[str] = []
    callers = [Caller(f"user-{n:04d}") for n in range(users)]
    async with AsyncExitStack() as stack:
        for some in range(0, users, 50):
            await asyncio.gather(*(caller.open(port, stack) for caller in callers[some : some + 50]))
        listening = [asyncio.create_task(caller.listen(wrong)) for caller in callers]
        start = time.perf_counter() + 0.2

        async def one(n: int) -> None:
            await asyncio.sleep(max(0.0, start + n / users - time.perf_counter()))
            caller = callers[n % users]
            async with caller.turn:
                answer = await caller.ask(n % WRITES_EACH == 0)
            wrong.extend(other for other in re.findall(r"user-\d{4}", answer) if other != caller.user)

        await asyncio.gather(*(one(n) for n in range(users * SECONDS)))
        for task in listening:
            task.cancel()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        text = (await reader.read()).decode().partition("\r\n\r\n")[2]
        writer.close()
    return stages(text), len(wrong)


def stages(text: str) -> dict[str, float]:
    """The worst p95 of every operation that has a target, by the name of its target."""
    known = {f"isolation_{name.replace('.', '_')}_seconds": name for name in TARGETS_S}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = known.get(sample.name)
            if name is not None and sample.labels.get("quantile") == "0.95":
                found[name] = max(found.get(name, 0.0), sample.value)
    return found


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    with servers.postgres() as server:
        file = tmp_path_factory.mktemp("database") / "notes.sqlite"
        yield {
            "SQLite": f"sqlite+aiosqlite:///{file}",
            "PostgreSQL": server.url.replace("postgresql", "postgresql+asyncpg"),
        }


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_a_thousand_users_over_sockets(benchmark, figure, urls, database):
    """With a session each; the budgets are the specification's."""
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(most, 8192)), hard))  # two sockets for each user
    with application(urls[database]) as port:
        measured, wrong = asyncio.run(drive(port, 1000))
    for name, limit_s in TARGETS_S.items():
        if name in measured:
            what = f"1,000 paced users over sockets, {database}: p95 of {name}"
            figure(what, measured[name] * 1e3, "ms", most=limit_s * 1e3)
    assert {"api.request", "factory.context_creation", "event.dispatch"} <= measured.keys()
    figure(f"1,000 paced users over sockets, {database}: wrong users", wrong, "", most=0)
    benchmark.pedantic(lambda: None, rounds=1)
