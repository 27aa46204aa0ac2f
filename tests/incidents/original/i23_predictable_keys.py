"""Documents are found by a number, whoever asks."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"

corpora = []


def read(number, name):
    owner, text = corpora[number]
    return text if FAULTY or owner == name else "not yours"


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    corpora.append((user.id, user.secret("text")))
    mine = len(corpora) - 1
    await asyncio.sleep(0)
    user.observe([user.id, *(read(number, user.id) for number in {max(mine - 1, 0)} if number != mine)], "others")
    user.observe(read(mine, user.id))
