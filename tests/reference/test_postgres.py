"""On PostgreSQL the database itself keeps users apart, and a connection forgets who used it."""

import asyncio
import gc
import socket
import sys
from contextvars import ContextVar
from pathlib import Path
from weakref import ref

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from pytest_isolation.phases.network import hold_back
from reference_impl.database import Database, Note

pytestmark = pytest.mark.asyncio

DRIVERS = ["postgresql+asyncpg", "postgresql+psycopg"]

# What a user can leave behind in a connection, and what the next one would see of it.
STATES = {
    "a setting": ("SET app.user_id = 'alice'", "SELECT coalesce(current_setting('app.user_id', true), '')", ""),
    "a role": ("SET ROLE pg_monitor", "SELECT current_user::text = session_user::text", True),
    "an authorisation": ("SET SESSION AUTHORIZATION pg_monitor", "SELECT session_user::text = 'pg_monitor'", False),
    "a search path": ("SET search_path = pg_catalog", "SELECT current_setting('search_path')", '"$user", public'),
    "a time zone": ("SET TimeZone = 'Asia/Tokyo'", "SELECT current_setting('TimeZone') = 'Asia/Tokyo'", False),
    "a temporary table": (
        "CREATE TEMP TABLE secret AS SELECT 1 AS x",
        "SELECT count(*) FROM pg_class WHERE relname = 'secret'",
        0,
    ),
    "a lock": (
        "SELECT pg_advisory_lock(1)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        0,
    ),
    "LISTEN": ("LISTEN secrets", "SELECT count(*) FROM pg_listening_channels()", 0),
    "a cursor": (
        "DECLARE peek CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) FROM pg_cursors WHERE name = 'peek'",
        0,
    ),
}


@pytest.fixture(params=DRIVERS)
def url(request, postgres_url):
    """Through both drivers."""
    return postgres_url.replace("postgresql", request.param)


@pytest.fixture(params=["superuser", "owner"])
def either_url(request, postgres_url, plain_url):
    """As a superuser, whom no policy stops, and as the owner of the tables."""
    return (postgres_url if request.param == "superuser" else plain_url).replace("postgresql", DRIVERS[0])


class Running(Database):
    """A database for the time of an ``async with`` block, with a single connection that everybody gets in turn."""

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_):
        await self.aclose()


def one_connection(url):
    return Running(url, pool_size=1, max_overflow=0)


@pytest.mark.parametrize("state", STATES)
async def test_what_a_user_leaves_in_a_connection_is_gone_for_the_next(url, state):
    """Though it was committed."""
    leave, look, expected = STATES[state]
    async with one_connection(url) as database:
        async with database.session("alice") as session:
            orm = await session.orm()
            await orm.execute(text(leave))
            await orm.commit()
        async with database._made.connect() as connection:
            assert await connection.scalar(text(look)) == expected


@pytest.mark.parametrize("state", STATES)
async def test_without_the_reset_it_would_be_there(url, state):
    """Or the test above could not fail."""
    leave, look, expected = STATES[state]
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(leave))
            await connection.commit()
        async with engine.connect() as connection:
            assert await connection.scalar(text(look)) != expected
    finally:
        await engine.dispose()


async def test_prepared_statements_survive_the_reset(url):
    """DISCARD ALL would take them away from under asyncpg's own cache."""
    async with one_connection(url) as database:
        for n in range(20):
            async with database.session(f"user-{n % 2}") as session:
                await session.save("x")
                assert len(await session.load()) == n // 2 + 1


async def test_notes_about_a_connection_do_not_reach_the_next_user(url):
    """SQLAlchemy keeps ``info`` with the connection."""
    async with one_connection(url) as database:
        async with database._made.connect() as connection:
            (await connection.get_raw_connection()).info["user"] = "alice"
        async with database._made.connect() as connection:
            assert "user" not in (await connection.get_raw_connection()).info


async def test_a_connection_whose_reset_fails_is_thrown_away(url):
    """It may hold anything."""
    async with one_connection(url) as database:
        session = database.session("alice")
        pid = await (await session.orm()).scalar(text("SELECT pg_backend_pid()"))
        with psycopg.connect("postgresql" + url.removeprefix(url.partition(":")[0])) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(DBAPIError):
            await session.aclose()
        async with database.session("bob") as session:
            assert await (await session.orm()).scalar(text("SELECT pg_backend_pid()")) != pid
        assert database.figures.active == 0


async def test_a_connection_that_ended_in_the_pool_is_lent_to_nobody(url):
    """The next user has another one, and notices nothing."""
    async with one_connection(url) as database:
        async with database.session("alice") as session:
            pid = await (await session.orm()).scalar(text("SELECT pg_backend_pid()"))
        with psycopg.connect(url.replace("+asyncpg", "").replace("+psycopg", ""), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
            while other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone():
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        async with database.session("bob") as session:
            assert await (await session.orm()).scalar(text("SELECT pg_backend_pid()")) != pid


async def test_a_statement_without_a_filter_sees_only_the_users_own_rows(either_url):
    """Somebody forgot the WHERE; the policy did not."""
    async with Running(either_url) as database:
        for user in ("alice", "bob"):
            async with database.session(user) as session:
                await session.save(f"of {user}")
        async with database.session("bob") as session:
            orm = await session.orm()
            assert list(await orm.scalars(text("SELECT text FROM note"))) == ["of bob"]
            assert (await orm.execute(text("UPDATE note SET text = 'mine'"))).rowcount == 1
            assert (await orm.execute(text("DELETE FROM note"))).rowcount == 1
            await orm.commit()
        async with database.session("alice") as session:
            assert list(await session.load()) == ["of alice"]


async def test_a_row_of_somebody_else_cannot_be_written(either_url):
    """Nor given away."""
    async with Running(either_url) as database, database.session("alice") as session:
        orm = await session.orm()
        orm.add(Note(user_id="bob", text="forged"))
        with pytest.raises(DBAPIError, match="row-level security"):
            await orm.commit()
        await orm.rollback()
        assert list(await session.load()) == []


async def test_nobody_sees_nothing(plain_url):
    """A connection without a user, before and after it had one."""
    async with one_connection(plain_url.replace("postgresql", DRIVERS[0])) as database:
        async with database._made.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM note")) == 0
        async with database.session("alice") as session:
            await session.save("x")
        async with database._made.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM note")) == 0


async def test_the_user_is_bound_again_in_every_transaction(url):
    """It ends with the transaction, and a session has several."""
    async with one_connection(url) as database, database.session("alice") as session:
        orm = await session.orm()
        for end in (orm.commit, orm.rollback, orm.commit):
            assert await orm.scalar(text("SELECT current_setting('app.user_id')")) == "alice"
            await end()


async def test_two_replicas_may_start_at_once(url):
    """Neither finds a table half made."""
    replicas = [Running(url) for _ in range(4)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    for replica in replicas:
        async with replica.session("alice") as session:
            await session.save("x")
    await asyncio.gather(*(replica.aclose() for replica in replicas))


async def test_a_query_that_is_cancelled_loses_no_connection_and_leaves_no_answer_behind(url):
    """The next user gets its own answer."""
    async with one_connection(url) as database:

        async def slow():
            async with database.session("alice") as session:
                await (await session.orm()).execute(text("SELECT 'alice', pg_sleep(30)"))

        task = asyncio.create_task(slow())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        async with asyncio.timeout(10), database.session("bob") as session:
            assert await (await session.orm()).scalar(text("SELECT 'bob'")) == "bob"
        assert database.figures.active == 0


async def test_binding_a_transaction_takes_one_round_trip_and_no_more(url):
    """It is itself what a ping asks for."""
    async with one_connection(url) as database:
        statements = []
        event.listen(
            database._made.sync_engine,
            "before_cursor_execute",
            lambda conn, cursor, statement, *_: statements.append(statement),
        )
        async with database.session("alice") as session:
            await session.ping()
        assert len(statements) == 1
        async with database.session("alice") as session:
            await session.load()
            await session.ping()
            await session.ping()
        assert [statement.split()[1].split("(")[0] for statement in statements[1:]] == [
            "set_config",
            "note.text",
            "set_config",
            "1",
        ]


async def test_what_statements_of_this_package_leave_is_forgotten_and_no_more(url):
    """Only who had SQLAlchemy's session in hand may have left anything; a read leaves nothing at all."""
    async with one_connection(url) as database:
        notes = []
        event.listen(
            database._made.sync_engine, "reset", lambda _c, entry, _s: notes.append(dict(entry.info)), insert=True
        )
        async with database.session("alice") as session:
            await session.load()
            await session.save("x")
            await session.ping()
            await session.orm()
        assert [note.get("reference_impl.forget") for note in notes] == ["", "DISCARD SEQUENCES", None]


async def test_the_last_number_of_a_sequence_is_not_told_to_the_next_user(url):
    """It says how much others write."""
    async with one_connection(url) as database:
        async with database.session("alice") as session:
            await session.save("x")
        for ask in ("SELECT lastval()", "SELECT currval('note_id_seq')"):
            async with database.session("bob") as session:
                with pytest.raises(DBAPIError, match="is not yet defined"):
                    await (await session.orm()).scalar(text(ask))


async def test_nor_is_the_number_of_an_insert_that_failed(url):
    """It was drawn all the same."""
    async with one_connection(url) as database:
        with pytest.raises(DBAPIError, match="not-null"):
            async with database.session("alice") as session:
                await session.save(None)
        async with database.session("bob") as session:
            with pytest.raises(DBAPIError, match="is not yet defined"):
                await (await session.orm()).scalar(text("SELECT lastval()"))


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_transaction_begun_behind_sqlalchemys_back_harms_nobody(url, end):
    """SQLAlchemy ends only its own, and asyncpg begins none within another."""
    async with one_connection(url) as database:
        async with database.session("alice") as session:
            orm = await session.orm()
            driver = await driver_of(orm)
            await driver.execute("COMMIT")
            await driver.execute("BEGIN")
            await driver.execute("CREATE TABLE half (x int)")
            await getattr(orm, end)()
        async with database._made.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            await driver.execute("BEGIN")
            await driver.execute("SET LOCAL app.user_id = 'alice'")
        for user in ("bob", "carol"):
            async with database.session(user) as session:
                await session.save("x")
                assert list(await session.load()) == ["x"]


async def test_a_transaction_of_asyncpgs_own_harms_nobody(postgres_url):
    """What the next user commits would be a part of it, and never be kept."""
    async with one_connection(postgres_url.replace("postgresql", DRIVERS[0])) as database:
        async with database._made.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            await driver.transaction().start()
        async with database.session("bob") as session:
            await session.save("x")
        with psycopg.connect(postgres_url) as other:
            assert other.execute("SELECT text FROM note").fetchall() == [("x",)]


async def test_who_listened_hears_nothing_of_the_next_user(postgres_url):
    """asyncpg keeps callbacks with the connection."""
    async with one_connection(postgres_url.replace("postgresql", DRIVERS[0])) as database:
        heard = {"alice": [], "bob": []}
        for user, news in heard.items():
            async with database.session(user) as session:
                orm = await session.orm()
                driver = await driver_of(orm)
                await driver.add_listener("news", lambda *what, news=news: news.append(what[-1]))
                await driver.execute(f"NOTIFY news, 'of {user}'")
                await orm.commit()
        assert heard == {"alice": ["of alice"], "bob": ["of bob"]}


async def test_a_connection_keeps_nothing_of_the_request_that_opened_it(url):
    """What a driver calls back would run in its Context, and keep alive whatever that holds."""

    class Request:
        pass

    current = ContextVar("current")

    async def serve(database):
        request = Request()
        current.set(request)
        async with database.session("alice") as session:
            await session.ping()
        return ref(request)

    async with Running(url, pool_size=2) as database, database.session("bob") as session:
        await session.ping()  # so that alice has to open another one
        request = await asyncio.create_task(serve(database))
        await asyncio.sleep(0)
        gc.collect()
        assert database.figures.created == 2
        assert request() is None


@pytest.mark.skipif(sys.platform != "linux", reason="it looks at what the process has open")
async def test_who_is_cancelled_while_a_connection_is_opened_hangs_up_at_once(url):
    """Not when the collector comes: until then the server would keep a place for nobody."""
    async with Running(url, pool_size=5) as database, database.session("bob") as session:
        await session.ping()
        gc.collect()
        gc.disable()
        try:
            before = sockets()
            for steps in range(1, 16):
                opening = asyncio.create_task(database.session("alice").ping())
                for _ in range(steps):
                    await asyncio.sleep(0)
                opening.cancel()
                await asyncio.wait([opening])
                assert sockets() <= before + database.figures.active + database.figures.idle - 1
        finally:
            gc.enable()


async def driver_of(orm):
    return (await (await orm.connection()).get_raw_connection()).driver_connection


def sockets():
    links = [file for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    return sum(str(link.readlink()).startswith("socket") for link in links)


async def test_psycopg_sends_again_after_the_network_was_slow(postgres_url):
    """The plugin slows it down for those who come after a user who was cut; then it has to be as it was."""
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        asking = asyncio.create_task(connection.execute("SELECT pg_sleep(0.01)"))
        await asyncio.sleep(0)
        let_go = hold_back(asyncio.get_running_loop())
        await asking
        let_go()
        with socket.socket(fileno=connection.fileno()) as seen:
            if cork := getattr(socket, "TCP_CORK", None):
                assert seen.getsockopt(socket.IPPROTO_TCP, cork) == 0
            seen.detach()
