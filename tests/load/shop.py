"""A small backend of the shape of the protocol, and what may be wrong with one: each fault in a class of its own."""

import asyncio
import sys
import uuid
from contextlib import asynccontextmanager
from types import SimpleNamespace

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute


class Shop:
    """Correct."""

    agents = ("clerk",)

    def __init__(self):
        self.notes, self.inboxes, self.asked = {}, {}, 0

    async def start(self):
        pass

    async def aclose(self):
        pass

    @asynccontextmanager
    async def request(self, user_id):
        yield Request(self, user_id)

    @asynccontextmanager
    async def connect(self, user_id):
        inbox = Inbox()
        self.inboxes.setdefault(user_id, []).append(inbox)
        try:
            yield inbox
        finally:
            self.inboxes[user_id].remove(inbox)

    async def answer(self, user_id, message):
        self.asked += 1
        await asyncio.sleep(0.001)
        self.notes.setdefault(user_id, []).append(message)
        return f"{user_id} has said {message}"

    def dispatch(self, user_id, event):
        for inbox in self.inboxes.get(user_id, ()):
            inbox.put(event)


class Inbox:
    def __init__(self):
        self.events = asyncio.Queue()
        self.put, self.receive, self.pending = self.events.put_nowait, self.events.get, self.events.qsize


class Request:
    def __init__(self, shop, user_id):
        self.shop = shop
        self.context = SimpleNamespace(user_id=user_id, request_id=uuid.uuid4().hex)

    async def agent(self, name):
        return SimpleNamespace(run=lambda message: self.shop.answer(self.context.user_id, message))

    async def emit(self, kind, data):
        self.shop.dispatch(self.context.user_id, {"kind": kind, **data})

    @asynccontextmanager
    async def session(self):
        yield SimpleNamespace(load=self._load)

    async def _load(self):
        return list(self.shop.notes.get(self.context.user_id, ()))


class Leaking(Shop):
    """The message lies where everybody's lies while somebody waits: right for a user who is alone."""

    async def answer(self, user_id, message):
        self.message = message
        answer = await super().answer(user_id, message)
        return f"{answer}, as {self.message}"


class Misdirecting(Shop):
    """Sometimes an event goes to everybody who listens."""

    def dispatch(self, user_id, event):
        for inboxes in self.inboxes.values() if self.asked % 5 == 0 else [self.inboxes.get(user_id, [])]:
            for inbox in inboxes:
                inbox.put(event)


class Failing(Shop):
    """One question in ten is not answered."""

    every = 10

    async def answer(self, user_id, message):
        answer = await super().answer(user_id, message)
        if self.asked % self.every == 0:
            raise RuntimeError(f"no more paper for {user_id}")
        return answer


class Unreliable(Failing):
    """One in three."""

    every = 3


class Broken(Shop):
    """Never answers anybody."""

    @asynccontextmanager
    async def request(self, user_id):
        raise RuntimeError("closed for ever")
        yield


class Disconnecting(Shop):
    """Loses every fifth connection, once it is busy."""

    async def answer(self, user_id, message):
        answer = await super().answer(user_id, message)
        if self.asked > 20 and self.asked % 5 == 0:
            raise ConnectionResetError("gone")
        return answer


class Forgetful(Shop):
    """Keeps no message of whoever comes late."""

    async def answer(self, user_id, message):
        answer = await super().answer(user_id, message)
        if self.asked > 20:
            self.notes.clear()
        return answer


class Muddled(Shop):
    """Answers something, but not this, once it is busy."""

    async def answer(self, user_id, message):
        answer = await super().answer(user_id, message)
        return "certainly" if self.asked > 20 and self.asked % 3 == 0 else answer


class Curt(Shop):
    """Never says what it has heard, as the protocol allows."""

    async def answer(self, user_id, message):
        await super().answer(user_id, message)
        return "certainly"


class Cancelling(Shop):
    """Cancels the task of whoever asks, once it is busy."""

    async def answer(self, user_id, message):
        answer = await super().answer(user_id, message)
        if self.asked > 20 and self.asked % 5 == 0:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        return answer


class Slow(Shop):
    """Serves one after another, fifty a second."""

    def __init__(self):
        super().__init__()
        self.lock = asyncio.Lock()

    async def answer(self, user_id, message):
        async with self.lock:
            await asyncio.sleep(0.02 if self.asked > 8 else 0)
            return await super().answer(user_id, message)


class Hanging(Shop):
    """Answers ten, and then nobody."""

    async def answer(self, user_id, message):
        answer = await super().answer(user_id, message)
        if self.asked > 10:
            print("hanging", file=sys.stderr, flush=True)
            await asyncio.Event().wait()
        return answer


class Unstartable(Shop):
    async def start(self):
        raise OSError("no database")


class Unclosable(Shop):
    async def aclose(self):
        raise OSError("the database is gone")


def token(user_id):
    """What an application of ours takes for a bearer token."""
    return user_id


def make_app(leaks):
    """The routes of the reference application over a shop."""
    shop = (Leaking if leaks else Shop)()

    def user(connection):
        return connection.headers["authorization"].removeprefix("Bearer ")

    async def chat(request):
        user_id, data = user(request), await request.json()
        answer = await shop.answer(user_id, data["message"])
        shop.dispatch(user_id, {"kind": "agent_completed", "answer": answer})
        return JSONResponse({"answer": answer})

    async def messages(request):
        return JSONResponse({"messages": shop.notes.get(user(request), [])})

    async def listen(websocket):
        async with shop.connect(user(websocket)) as inbox:
            await websocket.accept()
            sending = asyncio.create_task(send(websocket, inbox))
            await websocket.receive()
            sending.cancel()

    async def send(websocket, inbox):
        while True:
            await websocket.send_json(await inbox.receive())

    routes = [Route("/chat", chat, methods=["POST"]), Route("/messages", messages), WebSocketRoute("/ws", listen)]
    return Starlette(routes=routes)


def leaking_app():
    return make_app(leaks=True)


def correct_app():
    return make_app(leaks=False)
