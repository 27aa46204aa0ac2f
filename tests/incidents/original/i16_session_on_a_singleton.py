"""The supervisor, of which there is one, keeps the session of the last request."""

import asyncio

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

FAULTY = True
FOUND = "session"


@pytest_asyncio.fixture
async def isolation_engine(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db", pool_size=20)
    yield engine
    for session in begun:  # what was used after it was closed holds a connection again
        await session.close()
    await engine.dispose()


begun = []


class Supervisor:
    session = None

    async def load(self, user_id):
        await asyncio.sleep(0)
        return await self.session.scalar(text("SELECT :id"), {"id": user_id})


one = Supervisor()


@pytest.mark.asyncio
@pytest.mark.isolation(users=6, cancel=False)
async def test_it(user, isolation_engine):
    supervisor = one if FAULTY else Supervisor()
    async with AsyncSession(isolation_engine) as session:
        begun.append(session)
        supervisor.session = session
        user.observe(await supervisor.load(user.id))
