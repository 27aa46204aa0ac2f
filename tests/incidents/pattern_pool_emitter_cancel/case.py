import app
import pytest


@pytest.mark.asyncio
@pytest.mark.isolation
async def test_chat(user):
    user.observe(await app.chat(user.id))
