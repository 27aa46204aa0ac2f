"""What a session that knows its user costs, beside SQLAlchemy's own."""

from __future__ import annotations

import asyncio
from time import perf_counter

import pytest
import servers
from side_by_side import interleaved
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from reference_impl.database import Database, Note

ROUNDS, TASKS, EACH = 9, 100, 5


@pytest.fixture(scope="module")
def url():
    with servers.postgres() as server:
        yield server.url.replace("postgresql", "postgresql+asyncpg")


class Bare:
    """Nothing but SQLAlchemy, with a pool of the same size."""

    def __init__(self, url):
        self.engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=20, max_overflow=0)
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    async def ping(self, _user):
        async with self.sessions() as session:
            await session.execute(text("select 1"))

    async def load(self, user):
        async with self.sessions() as session:
            return (await session.scalars(select(Note.text).where(Note.user_id == user))).all()

    async def statement(self, user):
        await self.ping(user)


class Ours:
    """Bound to its user; what a session may have left behind is reset."""

    def __init__(self, url):
        self.database = Database(url, pool_size=20, max_overflow=0)

    async def ping(self, user):
        # To bind the transaction is the round trip: there is no `select 1`, and nothing that would have to be reset.
        async with self.database.session(user) as session:
            await session.ping()

    async def load(self, user):
        # A read of our own leaves nothing behind either.
        async with self.database.session(user) as session:
            return await session.load()

    async def statement(self, user):
        # Whoever has SQLAlchemy's session may leave anything: bound, the same statement, rolled back, reset.
        async with self.database.session(user) as session:
            await (await session.orm()).execute(text("select 1"))


NAMES = {
    "ping": "bound, no statement, no reset / bare `select 1`",
    "load": "own rows selected, no reset / bare select",
    "statement": "one statement and the reset / the same, bare",
}


async def crowd(work) -> float:
    async def task(n):
        for _ in range(EACH):
            await work(f"user-{n}")

    await asyncio.gather(*(task(n) for n in range(TASKS)))  # the pool fills
    begun = perf_counter()
    await asyncio.gather(*(task(n) for n in range(TASKS)))
    return (perf_counter() - begun) / (TASKS * EACH)


@pytest.mark.parametrize(("what", "aim"), [("ping", 1.10), ("load", 1.5), ("statement", 1.10)])
def test_session(benchmark, figure, url, what, aim):
    """Open, do it, close; 100 tasks on 20 connections."""

    def mine() -> float:
        async def main():
            ours = Ours(url)
            await ours.database.start()
            try:
                return await crowd(getattr(ours, what))
            finally:
                await ours.database.aclose()

        return asyncio.run(main())

    def theirs() -> float:
        async def main():
            bare = Bare(url)
            try:
                return await crowd(getattr(bare, what))
            finally:
                await bare.engine.dispose()

        return asyncio.run(main())

    mine_s, theirs_s, ratio = interleaved(mine, theirs, ROUNDS)
    figure(
        f"PostgreSQL: {NAMES[what]}",
        ratio,
        "×",
        most=aim,
        details=f"{mine_s * 1e6:.0f} / {theirs_s * 1e6:.0f} µs",
    )
    benchmark.pedantic(mine, rounds=1)


def test_a_request_without_the_database(benchmark, figure):
    """A session that is offered and never used, beside one of SQLAlchemy that is opened and closed."""
    count = 2000

    async def unused(database) -> float:
        begun = perf_counter()
        for _ in range(count):
            async with database.session("alice"):
                pass
        return (perf_counter() - begun) / count

    async def opened(engine) -> float:
        begun = perf_counter()
        for _ in range(count):
            async with AsyncSession(engine):
                pass
        return (perf_counter() - begun) / count

    database = Database(lazy_start=True)
    engine = create_async_engine("sqlite+aiosqlite://")
    asyncio.run(database.start())
    mine, theirs, ratio = interleaved(lambda: asyncio.run(unused(database)), lambda: asyncio.run(opened(engine)), 11)
    details = f"{mine * 1e9:.0f} ns / {theirs * 1e6:.1f} µs"
    figure("a session that is never used / AsyncSession", ratio, "×", most=0.02, details=details)
    benchmark.pedantic(lambda: asyncio.run(unused(database)), rounds=3)
    asyncio.run(database.aclose())
