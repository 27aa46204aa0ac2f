import app
import pytest


@pytest.mark.asyncio
@pytest.mark.isolation
async def test_whoami(user):
    user.observe(await app.ask(user.id))
