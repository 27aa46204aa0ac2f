"""What it costs to watch an engine on PostgreSQL, beside the same engine that nobody watches."""

from __future__ import annotations

import asyncio
import statistics
from time import perf_counter

import pytest
import servers
from side_by_side import interleaved
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from pytest_isolation.targets.sqlalchemy import watch_engine
from pytest_isolation.users.lendings import Lendings

ROUNDS, LOANS, WARM = 5, 100, 20
USES = {
    "a select": (["SELECT 1"], 70),
    "a user who is bound until the transaction ends": (["SELECT set_config('app.user_id', '7', true)"], 70),
    "what may be left, so that each loan asks": (["SET app.user_id = '7'"], 70),
}


@pytest.fixture(scope="module")
def url():
    with servers.postgres() as server:
        yield server.url


async def loans(engine, statements) -> float:
    """Seconds a loan: checked out, a statement, committed, checked in."""
    seconds = []
    for _ in range(WARM + LOANS):
        begun = perf_counter()
        async with engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
            await connection.commit()
        seconds.append(perf_counter() - begun)
    return statistics.median(seconds[WARM:])


@pytest.mark.parametrize("what", USES)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_a_loan(benchmark, figure, url, driver, what):
    """Of one connection, again and again."""
    statements, aim = USES[what]
    runner = asyncio.Runner()

    def engine():
        return create_async_engine(
            url.replace("postgresql", f"postgresql+{driver}"),
            pool_size=1,
            max_overflow=0,
            poolclass=AsyncAdaptedQueuePool,
        )

    bare, watched = engine(), engine()
    with runner, watch_engine(watched, Lendings()):
        with_it, without, _ = interleaved(
            lambda: runner.run(loans(watched, statements)), lambda: runner.run(loans(bare, statements)), ROUNDS
        )
        figure(
            f"watched loan, {driver}: {what}",
            (with_it - without) * 1e6,
            "µs",
            most=aim,
            details=f"{with_it * 1e6:.0f} - {without * 1e6:.0f} µs",
        )
        benchmark.pedantic(lambda: runner.run(loans(watched, statements)), rounds=1)
        runner.run(bare.dispose())
        runner.run(watched.dispose())
