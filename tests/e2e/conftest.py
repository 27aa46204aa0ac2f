"""The application as a process, and clients that come over the network."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import servers
from websockets.asyncio.client import connect

from reference_impl.tokens import Tokens

SECRET = "a secret of the tests"
ROOT = Path(__file__).parents[2]


# The application with agents of its own.
OWN_AGENTS = """
import asyncio, decimal
from reference_impl import create_backend
from reference_impl.agents import Agent
from reference_impl.serving import serve

class Slow(Agent):
    async def answer(self, message):
        for kind in ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"):
            await self._tools.emit(kind, {"about": message})
            await asyncio.sleep(0.1)
        return message

class Dear(Agent):
    async def answer(self, message):
        await self._tools.emit("agent_started", {})
        await self._tools.emit("tool_completed", {"price": decimal.Decimal("1.5")})
        await self._tools.emit("agent_completed", {})
        return message

class Broken(Agent):
    async def answer(self, message):
        raise ZeroDivisionError(message)

backend = create_backend()
for kind in (Slow, Dear, Broken):
    backend.registry.register(kind.__name__.lower(), kind)
serve(backend, port=0)
"""


class Process:
    """``python -m reference_impl`` on a port of its own.

    Args:
        arguments: of Python, instead of these.
        environment: settings.

    Attributes:
        port: where it listens.
    """

    def __init__(self, arguments=("-m", "reference_impl", "--port", "0"), **environment):
        self._arguments = arguments
        self._environment = {f"REFERENCE_{name.upper()}": value for name, value in environment.items()}
        self.port = 0

    def start(self):
        environment = {**os.environ, "REFERENCE_TOKEN_SECRET": SECRET, **self._environment}
        self._process = subprocess.Popen(
            [sys.executable, *self._arguments],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        said = []
        for line in self._process.stderr:
            said.append(line)
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return
        raise AssertionError("".join(said))

    def signal(self, number):
        self._process.send_signal(number)

    def wait(self):
        """Its exit code, and everything that it has said."""
        _, said = self._process.communicate(timeout=30)
        return self._process.returncode, said

    @property
    def is_running(self):
        return self._process.poll() is None

    def client(self):
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def socket(self, user):
        return connect(
            f"ws://127.0.0.1:{self.port}/ws",
            additional_headers={"authorization": f"Bearer {token(user)}"},
            compression=None,
            max_queue=None,
        )

    async def chat(self, client, user, message, **more):
        return await client.post("/chat", headers=bearer(user), json={"message": message, **more})


def token(user):
    return Tokens(SECRET).issue(user)


def bearer(user):
    return {"authorization": f"Bearer {token(user)}"}


async def events(socket, count):
    """So many events, however they were packed."""
    found = []
    async with asyncio.timeout(30):
        while len(found) < count:
            content = json.loads(await socket.recv())
            found += content if isinstance(content, list) else [content]
    return found


@contextmanager
def serving():
    """Starts applications, and ends those that are left at the end."""
    started = []

    def start(*arguments, **environment):
        process = Process(*arguments, **environment)
        started.append(process)
        process.start()
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.is_running:
                process.signal(signal.SIGTERM)
        for process in started:
            process.wait()


@pytest.fixture
def serve():
    """Starts applications that a test has for itself."""
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def app():
    """One for all tests that neither ask for its figures nor end it; each has users of its own."""
    with serving() as start:
        yield start()


@pytest.fixture(scope="module")
def own():
    """The same for those that need agents of their own."""
    with serving() as start:
        yield start(("-c", OWN_AGENTS))


@pytest.fixture(scope="session")
def valkey_url():
    """A real Valkey or Redis."""
    with servers.valkey() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_url():
    """A real PostgreSQL."""
    with servers.postgres() as server:
        yield server.url


@pytest.fixture
def sockets():
    """Many sockets at once, closed together."""

    @asynccontextmanager
    async def open_all(*connections):
        opened = await asyncio.gather(*connections)
        try:
            yield opened
        finally:
            await asyncio.gather(*(socket.close() for socket in opened), return_exceptions=True)

    return open_all
