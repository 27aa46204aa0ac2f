"""A worker of a pool still has what the last one left in its thread-local."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

FAULTY = True
FOUND = "leak"

local, pool = threading.local(), ThreadPoolExecutor(1)


def whoami(name):
    if not FAULTY or not hasattr(local, "name"):
        local.name = name
    try:
        return local.name
    finally:
        if not FAULTY:  # overwritten it would be in any case; until then it is a user's data that nobody needs
            del local.name


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    user.observe(await asyncio.get_running_loop().run_in_executor(pool, whoami, user.id))


@pytest.fixture(autouse=True, scope="module")
def closed():
    yield
    pool.shutdown()
