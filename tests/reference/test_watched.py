"""Nothing of one request is left in what the reference backend lends to the next one."""

# pytester forgets what an inner run has imported, and these do not bear being imported twice.
import aiosqlite  # noqa: F401
import asyncpg  # noqa: F401
import psycopg  # noqa: F401
import pytest
import sqlalchemy.dialects.postgresql.asyncpg
import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401

import reference_impl.backend
import reference_impl.emitters
import reference_impl.postgres
import reference_impl.sqlite

TEST = """
    import pytest

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=6{more})
    async def test_it(user, isolation_backend):
        async with isolation_backend.connect(user.id) as inbox, isolation_backend.request(user.id) as request:
            agent = await request.agent("chat")
            user.observe(await agent.run(user.secret()))
            async with request.session() as session:
                await session.save(user.secret("text"))
                {leaves}
                user.observe(await session.load())
            while inbox.pending():
                user.observe(await inbox.receive())
"""
KINDS = ["sqlite", "postgresql+asyncpg", "postgresql+psycopg"]


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch):
    """Which database the backend has."""
    if request.param != "sqlite":
        url = request.getfixturevalue("postgres_url").replace("postgresql", request.param)
        monkeypatch.setenv("REFERENCE_DATABASE_URL", url)
    return request.param


def test_nothing_is_left(suite, kind):
    """Users come and go."""
    suite(TEST.format(leaves="", more=", cancel=False")).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "kind", [pytest.param(one, marks=() if one == KINDS[1] else pytest.mark.soak) for one in KINDS], indirect=True
)
def test_nothing_is_left_by_users_who_are_cancelled(suite, kind):
    """At every await, those in the midst of a checkout too."""
    suite(TEST.format(leaves="", more=", cancel=True")).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "kind, faults",
    [
        pytest.param("sqlite", "[ConnectionResetError]", marks=pytest.mark.soak),
        *(pytest.param(one, "True", marks=pytest.mark.soak) for one in KINDS),
    ],
    indirect=["kind"],
)
def test_nothing_is_left_by_users_under_whom_something_breaks(suite, kind, faults):
    """Connections that are reset, answers that do not come, timeouts that expire; what a driver then forgets to close
    is its own."""
    lost = ("-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning")
    result = suite(TEST.format(leaves="", more=f", cancel=False, faults={faults}"), *lost)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*fault sweep with ConnectionResetError: * of * points*"])


def test_what_a_request_leaves_is_found(suite, kind, monkeypatch):
    """So that the silence says something: the backend without its reset, and a user who leaves a table behind."""
    monkeypatch.setattr(reference_impl.postgres, "_EVERYTHING", "SELECT 1")
    monkeypatch.setattr(reference_impl.sqlite, "_reset", lambda _connection, entry, _state: entry.info.clear())
    leaves = """for statement in ["DROP TABLE IF EXISTS draft", "CREATE TEMP TABLE draft (x int)"]:
                    await (await session.orm()).execute(__import__("sqlalchemy").text(statement))
                await (await session.orm()).commit()"""
    result = suite(TEST.format(leaves=leaves, more=", cancel=False"))
    result.stdout.fnmatch_lines(["*SESSION  connection * went back to the pool with temporary table draft, set by *"])


SAID = """
    import asyncio, pytest

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=6, cancel=False)
    async def test_it(user, isolation_backend):
        pool = isolation_backend.pool
        lease = await pool.acquire(user.id)
        lease.emit("agent_thinking", {{}})
        await asyncio.sleep(0)
        pool.release(lease)
        {late}
        user.observe(user.id)
"""


def emitted(lease, kind, data):
    lease._emitter.sent += 1


def given_twice(pool, lease):
    pool.free += [lease._emitter, lease._emitter]


async def not_cleaned(pool, user_id):
    emitter = pool.free.pop()
    pool._leases = emitter.holder = pool._leases + 1
    return reference_impl.emitters.Lease(emitter, pool._leases, pool, user_id)


def returned_as_it_is(pool, lease):
    lease._emitter.holder = 0
    pool.free.append(lease._emitter)


EMITTERS = {
    "two owners": ({"release": given_twice}, {}, "", "*was given Emitter * while user-0? still had it"),
    "dirty": (
        {"release": returned_as_it_is, "acquire": not_cleaned},
        {},
        "",
        "*POOL  solo-01 was given Emitter 1 as solo-00 had left it",
    ),
    "late": ({}, {"emit": emitted}, "lease.emit('agent_thinking', {})", "*solo-00 used Emitter 1 after having*"),
}


@pytest.mark.parametrize("what", EMITTERS)
def test_what_becomes_of_an_emitter_is_seen_behind_its_lease(suite, monkeypatch, what):
    """Without what keeps the pool from it."""
    pool, lease, late, line = EMITTERS[what]
    for name, method in pool.items():
        monkeypatch.setattr(reference_impl.emitters.EmitterPool, name, method)
    for name, method in lease.items():
        monkeypatch.setattr(reference_impl.emitters.Lease, name, method)
    suite(SAID.format(late=late)).stdout.fnmatch_lines([line])


def test_a_lease_may_be_returned_twice_and_refuses_late_use(suite):
    """As its documentation says: the one does nothing, the other is refused."""
    late = """pool.release(lease)
        with pytest.raises(Exception, match="has been returned"):
            lease.emit("agent_thinking", {})"""
    suite(SAID.format(late=late)).assert_outcomes(passed=1)
