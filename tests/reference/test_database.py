"""A session reads and writes what belongs to its user."""

import asyncio
from pathlib import Path

import pytest

from reference_impl.database import Database

pytestmark = pytest.mark.asyncio


@pytest.fixture
def database():
    return Database()


async def test_a_user_reads_its_own_texts_in_order(database):
    """And nobody else's."""
    await database.start()
    try:
        for user, text in (("alice", "one"), ("bob", "two"), ("alice", "three")):
            async with database.session(user) as session:
                await session.save(text)
        async with database.session("alice") as session:
            assert list(await session.load()) == ["one", "three"]
    finally:
        await database.aclose()


async def test_many_users_write_at_once(database):
    """SQLite has one writer; the others wait instead of failing."""
    await database.start()

    async def use(user):
        async with database.session(user) as session:
            await session.ping()
            await session.save(f"of {user}")
            return list(await session.load())

    try:
        users = [f"user-{i}" for i in range(50)]
        assert await asyncio.gather(*map(use, users)) == [[f"of {user}"] for user in users]
    finally:
        await database.aclose()


async def test_what_is_not_committed_is_not_kept(database):
    """A request that breaks off leaves no half of its work."""
    await database.start()
    try:
        with pytest.raises(ZeroDivisionError):
            async with database.session("alice") as session:
                session._session.add_all([])
                await session.ping()
                raise ZeroDivisionError
        async with database.session("alice") as session:
            assert list(await session.load()) == []
    finally:
        await database.aclose()


async def test_its_file_is_removed_at_the_end(database):
    """Nothing is left on the disk."""
    await database.start()
    async with database.session("alice") as session:
        file = Path(session._session.get_bind().url.database)
        assert file.exists()
    await database.aclose()
    assert not file.parent.exists()


async def test_a_database_that_is_not_running_says_so(database):
    """Instead of failing somewhere inside."""
    with pytest.raises(RuntimeError, match="await start"):
        database.session("alice")
