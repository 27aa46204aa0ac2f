"""A backend of the shape of the protocol, and what may be wrong with one when each stage of it is timed."""

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

from load.shop import Request, Shop


class Asked(Request):
    @asynccontextmanager
    async def session(self):
        yield SimpleNamespace(load=self._load, ping=self.ping)

    async def ping(self):
        await asyncio.sleep(0)


class Kiosk(Shop):
    """Correct, and fast enough."""

    def __init__(self):
        super().__init__()
        self.open = self.requests = 0

    async def start(self):
        self.open += 1

    async def aclose(self):
        self.open -= 1

    @asynccontextmanager
    async def request(self, user_id):
        self.requests += 1
        yield Asked(self, user_id)


class SlowToOpen(Kiosk):
    """Waits for 15 ms before a request begins, where 10 are the target; of a wait the machine takes nothing."""

    @asynccontextmanager
    async def request(self, user_id):
        await asyncio.sleep(0.015)
        yield Asked(self, user_id)


class Broken(Kiosk):
    """Has no agents any more after a while."""

    @asynccontextmanager
    async def request(self, user_id):
        async with super().request(user_id) as request:
            if self.requests > 30:
                request.agent = self.gone
            yield request

    async def gone(self, name):
        raise LookupError(f"no agent {name!r} any more")


class Stuck(Kiosk):
    """Opens no request any more after a while."""

    @asynccontextmanager
    async def request(self, user_id):
        async with super().request(user_id) as request:
            if self.requests > 200:
                sys.stderr.write("stuck\n")
                sys.stderr.flush()
                await asyncio.sleep(1000)
            yield request


class Unstartable(Kiosk):
    async def start(self):
        raise ConnectionError("nobody listens on port 1")


class WithoutAgents(Kiosk):
    agents = ()


class Leavable(Kiosk):
    """Says when it is left."""

    async def aclose(self):
        sys.stderr.write("left\n")


class SlowToAnswer(Kiosk):
    """Works for 30 ms on an answer, where 20 are the target."""

    async def answer(self, user_id, message):
        end = time.thread_time() + 0.030
        while time.thread_time() < end:
            pass
        return await super().answer(user_id, message)
