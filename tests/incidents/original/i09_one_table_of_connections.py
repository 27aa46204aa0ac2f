"""The manager of sockets sends to every connection it knows."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"

connections = []


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    mine = (user.id, [])
    connections.append(mine)
    await asyncio.sleep(0)
    for owner, socket in connections:
        if FAULTY or owner == user.id:
            socket.append(user.secret("event"))
    await asyncio.sleep(0)
    connections.remove(mine)
    user.observe([user.id, mine[1]])
