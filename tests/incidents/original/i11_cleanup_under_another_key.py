"""What is made under one key is cleaned up under another: the limit counts orphans."""

import asyncio

import pytest

FAULTY = True
FOUND = "failed"

managers = {}


@pytest.mark.asyncio
@pytest.mark.isolation(users=20)
async def test_it(user):
    if len(managers) >= 20:
        raise RuntimeError("too many managers")
    key = f"{user.id}_thread_{id(user)}"
    managers[key] = object()
    await asyncio.sleep(0)
    managers.pop(f"{user.id}_thread_0" if FAULTY else key, None)
    user.observe(user.id)
