"""Sessions of all users lie under keys that nobody else was meant to use."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"

store = {}


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    key = "session:1" if FAULTY else f"{user.id}:session:1"
    store[key] = user.secret("session")
    await asyncio.sleep(0)
    user.observe([user.id, store[key]])
