"""One agent for each name, with the state of whoever asked last."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"


class Agent:
    state = None

    async def run(self, message):
        self.state = message
        await asyncio.sleep(0)
        return self.state


agents = {"triage": Agent()}


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    agent = agents["triage"] if FAULTY else Agent()
    user.observe(await agent.run(user.secret("message")))
