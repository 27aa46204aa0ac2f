"""The list of what is running shows the runs of all users."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"

active = {}


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    active[user.secret("run")] = user.id
    await asyncio.sleep(0)
    user.observe([user.id, [run for run, owner in active.items() if FAULTY or owner == user.id]])
    await asyncio.sleep(0)
    del active[user.secret("run")]
