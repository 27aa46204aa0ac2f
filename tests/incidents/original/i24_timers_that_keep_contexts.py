"""A timer that would end a forgotten request keeps the context of each that has ended."""

import asyncio

import pytest

FAULTY = True
FOUND = "retained"


class Context:
    def __init__(self, user_id):
        self.user_id = user_id
        self.is_open = True

    def close(self):
        self.is_open = False


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    context = user.track(Context(user.id))
    timer = asyncio.get_running_loop().call_later(300, context.close)
    try:
        await asyncio.sleep(0)
        user.observe(context.user_id)
    finally:
        context.close()
        if not FAULTY:
            timer.cancel()
