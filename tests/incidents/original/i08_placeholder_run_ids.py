"""Events of a run that is called "registry" belong to nobody and go to everybody."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"

sockets = {}


async def emit(run_id, owner, event):
    for name, socket in sockets.items():
        if name == owner or run_id == "registry":
            socket.append(event)


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    sockets[user.id] = []
    await asyncio.sleep(0)
    await emit("registry" if FAULTY else f"run of {user.id}", user.id, user.secret("event"))
    await asyncio.sleep(0)
    user.observe([user.id, sockets.pop(user.id)])
