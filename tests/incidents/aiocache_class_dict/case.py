import app
import pytest


@pytest.mark.asyncio
@pytest.mark.isolation
async def test_profile(user):
    user.observe(await app.profile(user.id))
