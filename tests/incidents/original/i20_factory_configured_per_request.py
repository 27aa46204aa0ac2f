"""A factory, of which there is one, is configured anew for every request."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"


class Factory:
    bridge = None

    async def create(self):
        await asyncio.sleep(0)
        return {"bridge": self.bridge}


one = Factory()


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    factory = one if FAULTY else Factory()
    factory.bridge = f"bridge of {user.id}"
    user.observe(await factory.create())
