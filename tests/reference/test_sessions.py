"""A session that nobody closes is found, named and given back; one that is closed for good says so."""

import asyncio
import gc
import sys
from contextlib import asynccontextmanager

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from reference_impl.database import Database

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["sqlite", "postgresql+asyncpg", "postgresql+psycopg"])
def url(request):
    """SQLite, and PostgreSQL through both drivers."""
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres_url").replace("postgresql", request.param)


@asynccontextmanager
async def one_connection(url):
    """A database whose single connection everybody gets in turn."""
    database = Database(url, pool_size=1, max_overflow=0)
    await database.start()
    try:
        yield database
    finally:
        await database.aclose()


async def until(true):
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


class Cycle:
    """Something of a request that holds itself, and a session."""

    def __init__(self, session):
        self.itself, self.session = self, session


async def use(database, user):
    async with asyncio.timeout(10), database.session(user) as session:
        await session.save("x")


async def test_a_session_that_is_dropped_in_another_thread_gives_its_connection_back(url):
    """A thread has no loop to do so; that in which it was opened has."""
    async with one_connection(url) as database:
        session = database.session("alice")
        await session.ping()
        last = [session]
        del session
        await asyncio.to_thread(last.clear)
        await use(database, "bob")
        assert (database.figures.leaked, database.figures.active) == (1, 0)


async def test_a_session_in_a_cycle_is_found_before_the_collector_comes(url):
    """Whose it is, and where it was used first."""
    async with one_connection(url) as database:
        gc.disable()
        try:
            line = sys._getframe().f_lineno + 1
            await Cycle(database.session("alice")).session.ping()
            [found] = database.open_sessions()
            assert (found.user_id, found.opened_at) == ("alice", f"{__file__}:{line}")
        finally:
            gc.enable()
            gc.collect()
            await until(lambda: not database.figures.active)


@pytest.mark.parametrize("thread", ["this", "another"])
async def test_the_collector_takes_the_session_and_not_its_connection(url, thread):
    """It would throw the connection away, and with psycopg leave it open on the server."""
    async with one_connection(url) as database:
        await Cycle(database.session("alice")).session.ping()
        if thread == "this":
            gc.collect()
        else:
            await asyncio.to_thread(gc.collect)
        await use(database, "bob")
        assert (database.figures.leaked, database.figures.created, database.figures.closed) == (1, 1, 0)


async def test_a_session_that_nobody_closed_stays_named(url):
    """When its connection has long come back."""
    async with one_connection(url) as database:
        line = sys._getframe().f_lineno + 1
        await database.session("alice").ping()
        await until(lambda: database.figures.leaked)
        [found] = database.leaked_sessions()
        assert (found.user_id, found.opened_at) == ("alice", f"{__file__}:{line}")
        assert found.age_s > 0
        assert database.open_sessions() == []


async def test_a_session_that_is_dropped_in_the_last_moment_is_no_loss(url):
    """The database is closed before the loop gets to it."""
    async with one_connection(url) as database:
        await database.session("alice").ping()
    assert database.figures.created == database.figures.closed
    await asyncio.sleep(0)
    assert database.open_sessions() == []


async def test_a_session_that_outlives_its_loop_fails_silently():
    """There is nobody who could give its connection back."""

    async def leave():
        database = Database()
        await database.start()
        session = database.session("alice")
        await session.ping()
        return database, session

    database, session = await asyncio.to_thread(asyncio.run, leave())
    del session
    [found] = database.open_sessions()
    assert found.user_id == "alice"
    await database.aclose()


async def test_what_orm_gave_says_so_when_its_session_was_dropped(url):
    """It would take a connection anew, which nobody gives back."""
    async with one_connection(url) as database:
        orm = await database.session("alice").orm()
        await until(lambda: database.figures.leaked)
        with pytest.raises(RuntimeError, match="nobody kept it"):
            await orm.scalar(text("select 1"))
        assert database.figures.active == 0


async def test_what_orm_gave_says_so_when_its_session_was_closed(url):
    """As its session does."""
    async with one_connection(url) as database:
        async with database.session("alice") as session:
            orm = await session.orm()
        with pytest.raises(RuntimeError, match="has been closed"):
            await orm.scalar(text("select 1"))
        assert database.figures.active == 0


async def test_closing_the_database_closes_the_sessions_that_are_open(url):
    """And their connections; what is used later says so."""
    async with one_connection(url) as database:
        session = database.session("alice")
        orm = await session.orm()
        await orm.execute(text("select 1"))
    assert database.figures.created == database.figures.closed
    for late in (
        session.ping,
        session.load,
        lambda: session.save("x"),
        session.orm,
        lambda: orm.scalar(text("select 1")),
    ):
        with pytest.raises(RuntimeError, match="closed with its database"):
            await late()
    await session.aclose()
    assert database.open_sessions() == []


async def test_closing_the_database_leaves_nothing_on_the_server(postgres_url, url):
    """No connection that is idle in a transaction, which keeps its locks."""
    async with one_connection(url or postgres_url.replace("postgresql", "postgresql+asyncpg")) as database:
        session = database.session("alice")
        await (await session.orm()).execute(text("select * from note for update"))
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        await until(lambda: not admin.execute(OTHERS).fetchone()[0])


async def test_closing_the_database_refuses_those_that_wait_for_a_connection(url):
    """They would open one that nobody closes."""
    async with one_connection(url) as database:
        first, second = database.session("alice"), database.session("bob")
        await first.ping()
        waiting = asyncio.create_task(second.ping())
        await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="database"):
        await waiting
    assert database.figures.created == database.figures.closed


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_closing_the_database_ends_what_is_at_work(postgres_url, driver):
    """Its statement fails, and the server works for it no more."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        async with one_connection(postgres_url.replace("postgresql", f"postgresql+{driver}")) as database:
            session = database.session("alice")
            sleeping = asyncio.create_task((await session.orm()).execute(text("select pg_sleep(60)")))
            await until(lambda: admin.execute(f"{OTHERS} and query ~ 'pg_sleep' and state = 'active'").fetchone()[0])
        async with asyncio.timeout(10):
            with pytest.raises(DBAPIError):
                await sleeping
        await until(lambda: not admin.execute(OTHERS).fetchone()[0])
        assert database.figures.created == database.figures.closed


OTHERS = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"


async def test_a_session_whose_block_is_never_entered_is_closed():
    """It had its connection refused."""
    database = Database(lazy=False, pool_size=1, max_overflow=0)
    await database.start()
    async with database.session("alice"):
        database.pool._timeout = 0.01
        with pytest.raises(sqlalchemy.exc.TimeoutError, match="QueuePool"):
            async with database.session("bob"):
                pass
        assert [one.user_id for one in database.open_sessions()] == ["alice"]
    await database.aclose()
