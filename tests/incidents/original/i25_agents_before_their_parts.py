"""The parts of an agent are made when it is first asked for, and handed out half made."""

import asyncio

import pytest

FAULTY = True
FOUND = "failed"

app = {}
making = asyncio.Lock()


async def parts():
    if FAULTY:
        if "parts" not in app:
            app["parts"] = {}
            await asyncio.sleep(0)
            app["parts"]["model"] = "model"
    else:
        async with making:
            if "parts" not in app:
                await asyncio.sleep(0)
                app["parts"] = {"model": "model"}
    return app["parts"]


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    if user.index == 0 and not FAULTY:
        app.clear()
    elif user.index == 0:
        app.clear()  # a new worker, to which a crowd comes
    user.observe([user.id, (await parts())["model"]])
