"""A tool in a global registry acts with the credentials of whoever bound it last."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"

registry = {}


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    tools = registry if FAULTY else {}
    tools["mail"] = user.secret("token")
    await asyncio.sleep(0)
    user.observe([user.id, f"sent with {tools['mail']}"])
