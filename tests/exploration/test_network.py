"""Real clients on real sockets: explored as far as the order is the loop's, and that is said."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest
import redis.asyncio
import servers
from exploration.corpus import Case

SAID = "not fully replayable"


@pytest.fixture(scope="module")
def postgres():
    """Its address."""
    with servers.postgres() as server:
        yield server.url.replace("+asyncpg", "")


@pytest.fixture(scope="module")
def valkey():
    """Its address."""
    with servers.valkey() as server:
        yield server.url


class Rows:
    """Users share two connections of asyncpg."""

    def __init__(self, pool):
        self.pool = pool

    async def handle(self, user):
        async with self.pool.acquire() as connection:
            return await connection.fetchval("select $1::text", user.secret())


class Settings(Rows):
    """The user of the moment is kept in one connection for all, and read after an await."""

    async def handle(self, user):
        async with self.pool.acquire() as connection:
            await connection.execute("create table if not exists moment (one int primary key, who text)")
            await connection.execute(
                "insert into moment values (1, $1) on conflict (one) do update set who = $1", user.secret()
            )
        await asyncio.sleep(0.001)
        async with self.pool.acquire() as connection:
            return await connection.fetchval("select who from moment")


class Keys:
    """Users share a client of Valkey, each with a key of its own."""

    own = True

    def __init__(self, client):
        self.client = client

    async def handle(self, user):
        key = user.id if self.own else "moment"
        await self.client.set(key, user.secret())
        await asyncio.sleep(0.001)
        return await self.client.get(key)


class OneKey(Keys):
    """One key for all."""

    own = False


def on_postgres(kind, url):
    @asynccontextmanager
    async def opened():
        async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
            yield kind(pool)

    return Case(kind.__name__, opened)


def on_valkey(kind, url):
    @asynccontextmanager
    async def opened():
        async with redis.asyncio.from_url(url) as client:
            yield kind(client)

    return Case(kind.__name__, opened)


def test_asyncpg_is_explored_with_best_effort(explore, postgres):
    """Connections are cancelled at any step, and nobody else notices; the fault beside it is found."""
    findings, done = explore(on_postgres(Rows, postgres), seconds=2, random_runs=10)
    assert findings == []
    assert any(SAID in note for note in done.notes)
    findings, done = explore(on_postgres(Settings, postgres), seconds=2)
    assert findings
    assert any(SAID in note for note in done.notes)


def test_a_client_of_valkey_is_explored_with_best_effort(explore, valkey):
    """The same for redis-py."""
    findings, done = explore(on_valkey(Keys, valkey), seconds=2, random_runs=10)
    assert findings == []
    assert any(SAID in note for note in done.notes)
    findings, done = explore(on_valkey(OneKey, valkey), seconds=2)
    assert findings
    assert any(SAID in note for note in done.notes)
