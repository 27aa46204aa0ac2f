"""One handler is used again for every connection; its socket is overwritten."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"


class Handler:
    def __init__(self, socket):
        self.socket = socket

    async def send(self, event):
        await asyncio.sleep(0)
        self.socket.append(event)


shared = Handler(None)


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    socket = []
    handler = shared if FAULTY else Handler(socket)
    handler.socket = socket
    await handler.send(user.secret("event"))
    await asyncio.sleep(0)
    user.observe([user.id, socket])
