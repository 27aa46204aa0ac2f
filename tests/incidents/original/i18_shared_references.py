"""The state of a conversation begins as a reference to a list that all have."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"

DEFAULTS = {"messages": []}


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    state = {"messages": DEFAULTS["messages"] if FAULTY else list(DEFAULTS["messages"])}
    state["messages"].append(user.secret("message"))
    await asyncio.sleep(0)
    user.observe([user.id, list(state["messages"])])
