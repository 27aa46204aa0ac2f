"""One client for the language model, made without a user, keeps answers for all."""

import asyncio

import pytest

FAULTY = True
FOUND = "leak"


class Model:
    def __init__(self, prefix=""):
        self.prefix, self.kept = prefix, {}

    async def ask(self, prompt, about):
        key = f"{self.prefix}{prompt}"
        if key not in self.kept:
            await asyncio.sleep(0)
            self.kept[key] = f"about {about}"
        return self.kept[key]


app = Model()


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    model = app if FAULTY else Model(user.id)
    user.observe(await model.ask("what do you know of me?", user.secret("diary")))
