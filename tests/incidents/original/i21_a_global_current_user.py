"""Who is logged in is a global, read after an await."""

import asyncio
import contextvars

import pytest

FAULTY = True
FOUND = "leak"

current = None
own = contextvars.ContextVar("own")


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    global current  # noqa: PLW0603 - the fault
    current = user.id
    own.set(user.id)
    await asyncio.sleep(0)
    user.observe(f"hello {current if FAULTY else own.get()}")
