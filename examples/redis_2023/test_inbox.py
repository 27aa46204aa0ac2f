"""An inbox in Redis, as one user sees it: the whole test."""

import os

import pytest
import redis.asyncio as redis


@pytest.fixture
def inbox():
    """One client with its pool of connections for all users, as a server has it."""
    return redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)


@pytest.mark.asyncio
@pytest.mark.isolation(users=20)
async def test_inbox(user, inbox):
    await inbox.set(f"inbox:{user.id}", user.secret("note"))
    user.observe(await inbox.get(f"inbox:{user.id}"))
