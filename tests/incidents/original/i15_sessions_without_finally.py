"""A unit of work that fails does not give its connection back."""

import asyncio

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

FAULTY = True
FOUND = "pool"


@pytest_asyncio.fixture
async def isolation_engine(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db", pool_size=20)
    yield engine
    for connection in begun:  # the collector would find them, some time
        await connection.close()
    await engine.dispose()


begun = []


async def work(engine, user_id):
    connection = await engine.connect()
    begun.append(connection)
    try:
        found = await connection.scalar(text("SELECT :id"), {"id": user_id})
        raise ValueError(f"cannot commit {found}")
    finally:
        if not FAULTY:
            await connection.close()


@pytest.mark.asyncio
@pytest.mark.isolation(users=8, cancel=False)
async def test_it(user, isolation_engine):
    with pytest.raises(ValueError, match="cannot commit") as raised:
        await work(isolation_engine, user.id)
    user.observe(raised.value)
    await asyncio.sleep(0)
