"""The answer to a query is kept by its text alone."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"

kept = {}


async def rows(owner, query):
    key = query if FAULTY else (owner, query)
    if key not in kept:
        await asyncio.sleep(0)
        kept[key] = f"rows of {owner}"
    return kept[key]


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    user.observe(await rows(user.id, "SELECT * FROM orders"))
