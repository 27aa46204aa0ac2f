"""What a backend lends is judged in every run of an exploration too."""

# pytester forgets what an inner run has imported, and these do not bear being imported twice.
import textwrap

import aiosqlite  # noqa: F401
import pytest
import sqlalchemy.dialects.sqlite.aiosqlite
import sqlalchemy.ext.asyncio
import sqlalchemy.orm  # noqa: F401

POOL = """
    import asyncio, pytest

    class Buffer:
        pass

    class Pool:
        def __init__(self):
            self.free = []
        def acquire(self):
            return self.free.pop() if self.free else Buffer()
        def release(self, buffer):
            self.free.append(buffer)

    class Backend:
        def __init__(self):
            self.pools = [Pool()]
            self.pool = self.pools[0]
            self.kept = None

    async def story(user, backend):
        await handle(backend, backend.pool)
        user.observe(user.id)

    def test_it(isolation):
        isolation.explore(Backend, story, users=2, seconds=0.5)
"""
FAULTS = {
    "cancelled": (
        """
        async def handle(backend, pool):
            buffer = pool.acquire()
            await asyncio.sleep(0)
            pool.release(buffer)
        kept = []
        Pool.acquire = lambda pool: kept.append(Buffer()) or kept[-1]
        """,
        """
        async def handle(backend, pool):
            buffer = pool.acquire()
            try:
                await asyncio.sleep(0)
            finally:
                pool.release(buffer)
        """,
        "POOL  user-0? never returned Buffer *",
    ),
    "two owners": (
        """
        busy = []
        async def handle(backend, pool):
            buffer = pool.acquire()
            busy.append(buffer)
            try:
                await asyncio.sleep(0)
            finally:
                busy.remove(buffer)
                pool.release(buffer)
                pool.free += [buffer] * len(busy)  # somebody else is under way
            buffer = pool.acquire()
            try:
                await asyncio.sleep(0)
            finally:
                pool.release(buffer)
        Pool.acquire = lambda pool: pool.free.pop(0) if pool.free else Buffer()
        """,
        """
        async def handle(backend, pool):
            for _ in range(2):
                buffer = pool.acquire()
                try:
                    await asyncio.sleep(0)
                finally:
                    pool.release(buffer)
        """,
        "POOL  user-0? was given Buffer * while user-0? still had it",
    ),
    "one for all": (
        """
        async def handle(backend, pool):
            backend.kept = pool.acquire(), backend.kept
            await asyncio.sleep(0)
        """,
        """
        async def handle(backend, pool):
            backend.kept = backend.kept or pool.acquire()
            await asyncio.sleep(0)
        """,
        "POOL  solo-01 never returned Buffer 2",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_it_is_found_and_its_twin_is_not(suite, what):
    """What one user alone does wrong, and what only an order or a cancellation shows."""
    fault, twin, line = FAULTS[what]
    source = textwrap.dedent(POOL)
    result = suite(source + textwrap.dedent(fault))
    result.stdout.fnmatch_lines([f"*{line}"])
    result.assert_outcomes(failed=1)
    suite(source + textwrap.dedent(twin)).assert_outcomes(passed=1)


def test_what_is_left_in_a_connection_is_found(suite, pytester):
    """Of an engine that is made anew in every run."""
    test = """
        from contextlib import asynccontextmanager
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine

        class Backend:
            def __init__(self, engine):
                self.engine, self.pools = engine, [engine]

        @asynccontextmanager
        async def opened():
            engine = create_async_engine("sqlite+aiosqlite:///FOLDER/test.db", pool_size=2)
            yield Backend(engine)
            await engine.dispose()

        async def story(user, backend):
            async with backend.engine.connect() as connection:
                await connection.execute(text("CREATE TEMP TABLE IF NOT EXISTS draft (x)"))
                if TAKEN_BACK:
                    await connection.execute(text("DROP TABLE draft"))
                await connection.commit()
            user.observe(user.id)

        def test_it(isolation):
            isolation.explore(opened, story, users=2, seconds=0.5, cancel=False)
    """.replace("FOLDER", str(pytester.path))
    result = suite(test.replace("TAKEN_BACK", "False"))
    result.stdout.fnmatch_lines(["*SESSION  connection 1 went back to the pool with temporary table draft, set by *"])
    suite(test.replace("TAKEN_BACK", "True")).assert_outcomes(passed=1)
