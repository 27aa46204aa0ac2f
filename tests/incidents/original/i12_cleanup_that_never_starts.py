"""The task that cleans up was to be started at import, where no event loop runs."""

import asyncio

import pytest

FAULTY = True
FOUND = "failed"

managers, closed = {}, []


async def clean_up():
    while closed:
        managers.pop(closed.pop(), None)


@pytest.mark.asyncio
@pytest.mark.isolation(users=20)
async def test_it(user):
    if len(managers) >= 20:
        raise RuntimeError("too many managers")
    managers[user.id] = object()
    await asyncio.sleep(0)
    closed.append(user.id)
    if not FAULTY:
        await asyncio.create_task(clean_up())
    user.observe(user.id)
