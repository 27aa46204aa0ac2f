"""A database starts beside others, makes what is missing and nothing else, and leaves nothing when it fails."""

import asyncio
import secrets
import threading
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, make_url, text
from sqlalchemy.exc import DBAPIError

from reference_impl import postgres
from reference_impl.database import Database

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["asyncpg", "psycopg"])
def url(request, postgres_url):
    """Of an empty database on a real server, through both drivers, for a superuser."""
    return postgres_url.replace("postgresql", f"postgresql+{request.param}")


@pytest.fixture
def admin(postgres_url):
    """Looks from outside."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def weak_url(admin, url):
    """For a role that owns nothing and may make nothing."""
    with suppress(psycopg.errors.DuplicateObject):
        admin.execute("create role weak login password 'weak'")
    admin.execute("grant usage on schema public to weak")
    return make_url(url).set(username="weak", password="weak").render_as_string(hide_password=False)


@asynccontextmanager
async def running(url, **options):
    database = Database(url, **options)
    await database.start()
    try:
        yield database
    finally:
        await database.aclose()


async def written_and_read(database, user, text):
    async with database.session(user) as session:
        await session.save(text)
        return list(await session.load())


def others(admin):
    """Connections to this database."""
    return admin.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    ).fetchone()[0]


async def gone(admin):
    """Nobody is connected any more; the server may need a moment."""
    async with asyncio.timeout(10):
        while others(admin):
            await asyncio.sleep(0.005)


async def test_a_start_that_fails_leaves_no_connection(admin, weak_url):
    """Though nobody closes a database that did not start."""
    database = Database(weak_url)
    with pytest.raises(DBAPIError, match="permission denied for schema public"):
        await database.start()
    await gone(admin)
    with pytest.raises(RuntimeError, match="await start"):
        database.session("alice")


async def test_a_lazy_start_that_fails_leaves_no_connection(admin, weak_url):
    """And is tried again by the next who needs the database."""
    async with running(weak_url, lazy_start=True) as database:
        for _ in range(3):
            with pytest.raises(DBAPIError, match="permission denied for schema public"):
                await written_and_read(database, "alice", "x")
        await gone(admin)
        admin.execute("grant all on schema public to weak")
        assert await written_and_read(database, "alice", "x") == ["x"]


async def test_a_start_on_a_file_that_cannot_be_made_says_so(tmp_path):
    """At once, and not after the patience for those who keep it locked."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'nowhere' / 'notes.db'}")
    with pytest.raises(DBAPIError, match="unable to open"):
        await database.start()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_start_that_is_cancelled_leaves_neither_a_task_nor_a_connection(admin, url):
    """In whatever step of it."""
    for turn in range(12):
        database = Database(url)
        starting = asyncio.create_task(database.start())
        await asyncio.sleep(0.003 * turn)
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled() or starting.exception() is None
        if not starting.cancelled():
            await database.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await gone(admin)


async def test_a_start_that_is_cancelled_leaves_no_file_open():
    """SQLite's driver opens it in a thread."""
    for turn in range(12):
        database = Database()
        starting = asyncio.create_task(database.start())
        await asyncio.sleep(0.001 * turn)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            await database.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name] == []
        assert database.figures.created == database.figures.closed


async def test_a_second_start_changes_nothing(admin, url):
    """What is there is left as it is."""
    versions = "select array(select xmin::text from pg_class where relname like 'note%' order by oid), array(select xmin::text from pg_policy)"
    async with running(url):
        first = admin.execute(versions).fetchone()
    async with running(url):
        assert admin.execute(versions).fetchone() == first


async def test_a_start_does_not_wait_for_who_reads(url):
    """To change a table one has to be alone with it."""
    async with running(url) as database, database.session("alice") as session:
        await (await session.orm()).execute(text("select * from note"))
        async with asyncio.timeout(5), running(url):
            pass


async def test_a_role_that_owns_nothing_can_start(admin, url, weak_url):
    """Where tables are made by somebody else, as in production; the policy holds for it too."""
    async with running(url) as database:
        await written_and_read(database, "alice", "of alice")
    admin.execute("grant select, insert on note to weak")
    admin.execute("grant usage on all sequences in schema public to weak")
    async with running(weak_url) as database:
        assert await written_and_read(database, "bob", "of bob") == ["of bob"]
        async with database.session("bob") as session:
            assert list(await (await session.orm()).scalars(text("select text from note"))) == ["of bob"]


async def test_what_somebody_took_away_is_put_back(admin, url):
    """A table without its policy would show everything."""
    async with running(url):
        pass
    admin.execute("drop policy own_rows on note")
    admin.execute("alter table note no force row level security")
    admin.execute("alter table note disable row level security")
    admin.execute(f"revoke all on note from {postgres.ROLE}")
    admin.execute(f"revoke all on sequence note_id_seq from {postgres.ROLE}")
    async with running(url) as database:
        await written_and_read(database, "alice", "of alice")
        async with database.session("bob") as session:
            assert list(await (await session.orm()).scalars(text("select text from note"))) == []


async def test_tables_in_another_schema_keep_users_apart_too(admin, url):
    """Here it is the one in which the role makes its tables."""
    admin.execute('drop schema if exists "My app" cascade')
    admin.execute('create schema "My app"')
    name = admin.info.dbname
    admin.execute(f'alter database {name} set search_path to "My app"')
    try:
        async with running(url) as database:
            await written_and_read(database, "alice", "of alice")
            async with database.session("bob") as session:
                await session.save("of bob")
                assert list(await (await session.orm()).scalars(text('select text from "My app".note'))) == ["of bob"]
    finally:
        admin.execute(f"alter database {name} reset search_path")
        admin.execute('drop schema "My app" cascade')


async def test_a_table_that_names_its_schema_keeps_users_apart_too(admin, url):
    """And one without a user is for all."""
    admin.execute("drop schema if exists shop cascade")
    admin.execute("create schema shop")
    tables = MetaData()
    Table("order", tables, Column("id", Integer, primary_key=True), Column("user_id", String), schema="shop")
    Table("plan", tables, Column("id", Integer, primary_key=True), schema="shop")
    async with running(url) as database:
        assert await postgres.make_tables(database._made, tables)
        async with database._made.begin() as connection:
            await connection.execute(text("insert into shop.plan values (1)"))
        for user in ("alice", "bob"):
            async with database.session(user) as session:
                orm = await session.orm()
                await orm.execute(text('insert into shop."order" (user_id) values (:user)'), {"user": user})
                await orm.commit()
                assert list(await orm.scalars(text('select user_id from shop."order"'))) == [user]
                assert await orm.scalar(text("select count(*) from shop.plan")) == 1
    admin.execute("drop schema shop cascade")


async def test_a_role_that_passes_by_every_policy_takes_the_other_one(admin, url):
    """It is no superuser, so it has to be granted that, once."""
    with suppress(psycopg.errors.DuplicateObject):
        admin.execute("create role passing login password 'passing' bypassrls createrole")
    admin.execute("grant all on schema public to passing")
    forget_role(admin)
    if admin.execute("select 1 from pg_roles where rolname = %s", [postgres.ROLE]).fetchone():
        admin.execute(f"grant {postgres.ROLE} to passing with admin option")
    passing_url = make_url(url).set(username="passing", password="passing").render_as_string(hide_password=False)
    for _ in range(2):
        async with running(passing_url) as database:
            await written_and_read(database, "alice", "of alice")
            async with database.session("bob") as session:
                assert await (await session.orm()).scalar(text("select count(*) from note")) == 0
    admin.execute("drop owned by passing cascade")
    admin.execute("drop role passing")


async def test_many_may_start_at_once_on_a_new_server(admin, url):
    """In two databases: the lock of one is not that of the other, and roles belong to both."""
    for _ in range(4):
        admin.execute("drop table if exists note")
        other = f"isolation_other_{secrets.token_hex(4)}"
        admin.execute(f"create database {other}")
        forget_role(admin)
        other_url = make_url(url).set(database=other).render_as_string(hide_password=False)
        databases = [Database(one) for one in (url, other_url) * 3]
        try:
            await asyncio.gather(*(database.start() for database in databases))
            for database in databases:
                assert await written_and_read(database, "alice", "x") != []
        finally:
            for database in databases:
                await database.aclose()
            admin.execute(f"drop database {other} with (force)")


def forget_role(admin):
    """As on a server that is used for the first time, unless somebody else's database needs the role."""
    admin.execute("drop table if exists note")
    with suppress(psycopg.errors.DependentObjectsStillExist, psycopg.errors.UndefinedObject):
        admin.execute(f"drop owned by {postgres.ROLE}")
    with suppress(psycopg.errors.DependentObjectsStillExist):
        admin.execute(f"drop role if exists {postgres.ROLE}")


async def test_many_may_start_at_once_on_a_new_file(tmp_path):
    """Each finds no table, and wants another journal; SQLite refuses some of them at once."""
    for number in range(25):
        databases = [Database(f"sqlite+aiosqlite:///{tmp_path / str(number)}.db") for _ in range(6)]
        await asyncio.gather(*(database.start() for database in databases))
        for database in databases:
            await written_and_read(database, "alice", "x")
            await database.aclose()


async def test_a_start_on_a_file_that_is_there_does_not_wait_for_who_writes(tmp_path):
    """Nothing is missing, so nothing has to be written."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'notes.db'}"
    async with running(url) as database, database.session("alice") as session:
        await (await session.orm()).execute(text("insert into note (user_id, text) values ('alice', 'x')"))
        async with asyncio.timeout(3), running(url):
            pass
