"""Every connection adds its handler to the global router, and nobody takes it out."""

import asyncio

import pytest

FAULTY = True
FOUND = "retained"

router = []


class Handler:
    def __init__(self, user_id):
        self.user_id = user_id

    async def send(self, event):
        await asyncio.sleep(0)
        return f"{event} for {self.user_id}"


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    handler = user.track(Handler(user.id))
    router.append(handler)
    try:
        user.observe(await handler.send("started"))
    finally:
        if not FAULTY:
            router.remove(handler)
