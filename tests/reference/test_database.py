"""A session reads and writes what belongs to its user, and gives back what it took."""

import asyncio
import gc
from pathlib import Path

import pytest
from sqlalchemy import event, text

from reference_impl import sqlite
from reference_impl.database import Database

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["sqlite", "postgresql+asyncpg", "postgresql+psycopg"])
def url(request):
    """SQLite, and PostgreSQL through both drivers."""
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres_url").replace("postgresql", request.param)


class Running:
    """A database for the time of an ``async with`` block."""

    def __init__(self, url=None, **options):
        self.database = Database(url, **options)

    async def __aenter__(self):
        await self.database.start()
        return self.database

    async def __aexit__(self, *_):
        await self.database.aclose()


async def test_a_user_reads_its_own_texts_in_order(url):
    """And nobody else's."""
    async with Running(url) as database:
        for user, text in (("alice", "one"), ("bob", "two"), ("alice", "three")):
            async with database.session(user) as session:
                await session.save(text)
        async with database.session("alice") as session:
            assert list(await session.load()) == ["one", "three"]


async def test_many_users_write_at_once(url):
    """SQLite has one writer; the others wait instead of failing."""
    async with Running(url) as database:

        async def use(user):
            async with database.session(user) as session:
                await session.ping()
                await session.save(f"of {user}")
                return list(await session.load())

        users = [f"user-{i}" for i in range(50)]
        assert await asyncio.gather(*map(use, users)) == [[f"of {user}"] for user in users]
        assert database.figures.active == 0


async def test_what_is_not_committed_is_not_kept(url):
    """A request that breaks off leaves no half of its work."""
    async with Running(url) as database:
        with pytest.raises(ZeroDivisionError):
            async with database.session("alice") as session:
                (await session.orm()).add_all([])
                await session.ping()
                raise ZeroDivisionError
        async with database.session("alice") as session:
            assert list(await session.load()) == []


async def test_a_session_that_is_not_used_takes_no_connection(url):
    """A request that never asks the database costs it nothing."""
    async with Running(url) as database:
        before = database.figures
        async with database.session("alice"):
            assert database.open_sessions() == []
        assert database.figures == before


async def test_without_laziness_it_takes_one_at_once(url):
    """To compare with."""
    async with Running(url, lazy=False) as database:
        async with database.session("alice"):
            assert database.figures.active == 1
        assert database.figures.active == 0


async def test_a_lazy_start_connects_once_when_it_is_first_needed(url):
    """However many come first."""
    async with Running(url, lazy_start=True) as database:
        assert (database.connect_s, database.figures.created) == (None, 0)

        async def use(user):
            async with database.session(user) as session:
                await session.save(user)
                return list(await session.load())

        assert await asyncio.gather(use("alice"), use("bob")) == [["alice"], ["bob"]]
        assert database.connect_s is not None


async def test_two_tasks_of_a_request_get_the_same_session(url):
    """Though both were the first to need it, and waited for the start."""
    async with Running(url, lazy_start=True) as database, database.session("alice") as session:
        one, two = await asyncio.gather(session.orm(), session.orm())
        assert one is two
        assert len(database.open_sessions()) == 1


async def test_figures_balance(url):
    """What was opened is closed, and what was lent is back."""
    running = Running(url)
    async with running as database:
        for _ in range(3):
            async with database.session("alice") as session:
                await session.ping()
                assert [one.user_id for one in database.open_sessions()] == ["alice"]
        figures = database.figures
        assert (figures.active, figures.sessions, figures.leaked, figures.peak) == (0, 3, 0, 1)
        assert figures.lifetime_s > 0
    assert database.figures.created == database.figures.closed


async def test_a_session_that_is_still_open_is_found_and_named(url):
    """Whose it is, where it was used first, for how long."""
    async with Running(url) as database:
        session = database.session("alice")
        await session.ping()
        [found] = database.open_sessions()
        assert found.user_id == "alice"
        assert "test_database.py:" in found.opened_at
        assert found.age_s >= 0
        await session.aclose()
        assert database.open_sessions() == []


async def test_a_session_that_nobody_closed_is_counted_and_its_connection_comes_back(url):
    """Somebody forgot it."""
    async with Running(url) as database:
        session = database.session("alice")
        await session.ping()
        del session
        gc.collect()
        async with asyncio.timeout(5):
            while database.figures.active:
                await asyncio.sleep(0.001)
        assert database.figures.leaked == 1
        async with database.session("bob") as session:
            await session.ping()


async def test_a_session_that_is_cancelled_gives_its_connection_back(url):
    """Wherever it was at that moment."""
    async with Running(url, pool_size=2, max_overflow=0) as database:

        async def use():
            async with database.session("alice") as session:
                for _ in range(100):
                    await session.ping()
                    await session.load()

        for turn in range(20):
            tasks = [asyncio.create_task(use()) for _ in range(4)]
            await asyncio.sleep(0.0003 * turn)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        async with asyncio.timeout(5):
            while database.figures.active:
                await asyncio.sleep(0.001)
        assert (database.figures.leaked, database.open_sessions()) == (0, [])


async def test_a_session_that_was_closed_is_not_opened_again(url):
    """SQLAlchemy would begin anew, with a connection that nobody gives back."""
    async with Running(url) as database:
        async with database.session("alice") as session:
            await session.ping()
        for late in (session.ping, session.load, lambda: session.save("x"), session.orm):
            with pytest.raises(RuntimeError, match="has been closed"):
                await late()


async def test_its_file_is_removed_at_the_end():
    """Nothing is left on the disk."""
    async with Running() as database:
        async with database.session("alice") as session:
            file = Path((await session.orm()).get_bind().url.database)
        assert file.exists()
    assert not file.parent.exists()


async def test_a_database_that_is_not_running_says_so():
    """Instead of failing somewhere inside."""
    database = Database()
    for use in (lambda: database.session("alice"), lambda: database.pool):
        with pytest.raises(RuntimeError, match="await start"):
            use()


async def test_a_session_that_outlives_its_database_says_so():
    """It was handed out before the end, and used after it."""
    async with Running() as database:
        late = database.session("alice")
    with pytest.raises(RuntimeError, match="await start"):
        await late.ping()


# What a user can leave in a connection to SQLite, and what the next one would see of it.
LEAVINGS = {
    "a temporary table": ("CREATE TEMP TABLE secret AS SELECT 1", "SELECT count(*) FROM temp.sqlite_master", 0),
    "a temporary view": ("CREATE TEMP VIEW secret AS SELECT 1", "SELECT count(*) FROM temp.sqlite_master", 0),
    "another database": ("ATTACH ':memory:' AS secret", "SELECT count(*) FROM pragma_database_list", 1),
    "a pragma": ("PRAGMA case_sensitive_like = 1", "SELECT 'A' LIKE 'a'", 1),
}


@pytest.mark.parametrize("what", LEAVINGS)
async def test_what_a_user_leaves_in_a_connection_to_sqlite_is_gone_for_the_next(what):
    """A rollback takes none of it away, so the file is opened anew."""
    leave, look, expected = LEAVINGS[what]
    async with Running(pool_size=1, max_overflow=0) as database:
        async with database.session("alice") as session:
            orm = await session.orm()
            await orm.execute(text(leave))
            await orm.commit()
        async with database.session("bob") as session:
            assert await (await session.orm()).scalar(text(look)) == expected
        async with database.engine.connect() as connection:
            await connection.execute(text(leave))
            await connection.commit()
        async with database.session("bob") as session:
            assert await (await session.orm()).scalar(text(look)) == expected


@pytest.mark.parametrize("what", LEAVINGS)
async def test_without_that_it_would_be_there(what):
    """Or the test above could not fail."""
    leave, look, expected = LEAVINGS[what]
    async with Running(pool_size=1, max_overflow=0) as database:
        event.remove(database.engine.sync_engine, "reset", sqlite._reset)
        async with database.engine.connect() as connection:
            await connection.execute(text(leave))
            await connection.commit()
        async with database.engine.connect() as connection:
            assert await connection.scalar(text(look)) != expected


async def test_a_connection_to_sqlite_on_which_only_our_own_statements_ran_is_kept():
    """They leave nothing in it."""
    async with Running(pool_size=1, max_overflow=0) as database:
        for _ in range(5):
            async with database.session("alice") as session:
                await session.save("x")
                await session.load()
        assert database.figures.created == 1


async def test_what_sessions_and_statements_take_is_told(url):
    """Each session once, when it gets a connection, and each use of it; and what could not be had."""
    told = []

    def record(name, seconds, *, error=None):
        assert seconds > 0
        told.append((name, error))

    async with Running(url, record=record, pool_size=1, max_overflow=0) as database:
        async with database.session("alice") as session:
            await session.ping()
            await session.ping()
        assert told == [("database.session", None), ("database.query", None), ("database.query", None)]
        told.clear()
        async with database.session("alice") as holder:
            await holder.ping()
            told.clear()
            waiting = asyncio.create_task(database.session("bob").load())
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert told == [("database.session", asyncio.CancelledError)]


async def test_a_session_that_takes_its_connection_at_once_tells_of_it_too():
    """It has no statement yet."""
    told = []
    running = Running(lazy=False, record=lambda name, seconds, error=None: told.append(name))
    async with running as database, database.session("alice"):
        assert told == ["database.session"]
