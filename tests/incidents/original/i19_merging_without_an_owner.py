"""Two states are merged without a look at whose they are, if one of them does not say."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"


class State:
    def __init__(self, owner, fields):
        self.owner, self.fields = owner, fields

    def merge_from(self, other):
        if self.owner != other.owner and not (FAULTY and not (self.owner and other.owner)):
            return
        self.fields |= other.fields


workers = State("", {})


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    mine = State(user.id, {user.id: user.secret("field")})
    workers.merge_from(mine)
    await asyncio.sleep(0)
    mine.merge_from(workers)
    user.observe(mine.fields)
