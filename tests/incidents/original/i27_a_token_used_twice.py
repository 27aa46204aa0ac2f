"""No incident but a false alarm: a user with two tabs uses one token twice at once; or one tab after the other."""

import asyncio

import pytest

FAULTY = True
FOUND = "nothing"


async def page(token, name):
    await asyncio.sleep(0)
    await asyncio.to_thread(len, token)
    return f"{name} with {token}"


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    token = user.secret("token")
    if FAULTY:
        user.observe(await asyncio.gather(page(token, user.id), page(token, user.id)))
    else:
        user.observe([await page(token, user.id), await page(token, user.id)])
