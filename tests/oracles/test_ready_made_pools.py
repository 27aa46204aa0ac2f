"""Pools of libraries are known: each fault that one can have is found, and nothing in the same code without it."""

import textwrap

import pytest

ASYNC = """
    import asyncio, asyncpg, psycopg_pool, pytest, pytest_asyncio, redis.asyncio
    kept = []

    @pytest_asyncio.fixture
    async def pool():
        {opens}
        yield pool
        for one in kept:
            await pool.{back}(one)
        await pool.{close}()
        await asyncio.sleep(0.01)

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=4, cancel=False)
    async def test_it(user, pool, isolation_watch):
        isolation_watch(pool{more})
        await handle(pool, user)
        user.observe(user.id)
"""
SYNC = """
    import psycopg_pool, pytest
    kept = []

    @pytest.fixture
    def pool():
        with psycopg_pool.ConnectionPool("{url}", min_size=4, max_size=9, open=True) as pool:
            yield pool
            for one in kept:
                pool.putconn(one)

    @pytest.mark.isolation(users=4)
    def test_it(user, pool, isolation_watch):
        isolation_watch(pool{more})
        handle(pool, user)
        user.observe(user.id)
"""
OPENS = {
    "psycopg": (
        "pool = psycopg_pool.AsyncConnectionPool('{url}', min_size=4, max_size=9, open=False); await pool.open()",
        *("getconn", "putconn", "close"),
    ),
    "asyncpg": (
        "pool = await asyncpg.create_pool('{url}', min_size=1, max_size=9)",
        *("acquire", "release", "close"),
    ),
    "redis": (
        "pool = redis.asyncio.ConnectionPool.from_url('{url}', max_connections=9)",
        *("get_connection", "release", "aclose"),
    ),
}
STATES = {
    "a role": ("SET ROLE visitor", "RESET ROLE", "role 'visitor'"),
    "a setting of one's own": ("SET app.user_id = 'USER'", "SET app.user_id = ''", "app.user_id = '<id of solo-00>'"),
    "any other setting": ("SET jit_above_cost = 7", "RESET jit_above_cost", "setting jit_above_cost = '7'"),
    "an advisory lock": ("SELECT pg_try_advisory_lock(7)", "SELECT pg_advisory_unlock_all()", "advisory lock 7"),
}
FORGETS = {"asyncpg": {"a setting of one's own", "any other setting", "an advisory lock"}, "psycopg": set()}
CASES = [(library, what) for library in ("asyncpg", "psycopg") for what in STATES if what not in FORGETS[library]]
CASES += [("psycopg, sync", what) for what in ("a role", "any other setting")]
OFTEN = [("asyncpg", "a role"), ("psycopg", "a setting of one's own"), ("psycopg, sync", "any other setting")]


def source(request, library, handle, more=""):
    """A test of a library's pool, with GET and BACK as its methods are called."""
    url = request.getfixturevalue("valkey" if library == "redis" else "postgres")
    if library == "psycopg, sync":
        test = SYNC.format(url=url, more=more)
        get, back, handle = "getconn", "putconn", handle.replace("await ", "").replace("async ", "")
    else:
        opens, get, back, close = OPENS[library]
        test = ASYNC.format(opens=opens.format(url=url), back=back, close=close, more=more)
    handle = handle.replace("asyncio.sleep", "__import__('time').sleep") if library.endswith(", sync") else handle
    return textwrap.dedent(test) + textwrap.dedent(handle).replace("GET", get).replace("BACK", back)


LEAVES = """
    async def handle(pool, user):
        connection = await pool.GET()
        try:
            for statement in {statements!r}:
                await connection.execute(statement.replace("USER", user.id))
            {commit}
        finally:
            await pool.BACK(connection)
"""


@pytest.mark.parametrize(
    "library, what", [pytest.param(*case, marks=() if case in OFTEN else pytest.mark.soak) for case in CASES]
)
def test_what_is_left_in_a_connection_is_found(tells_apart, request, library, what):
    """And what was taken back is none."""
    leave, take_back, named = STATES[what]
    commit = "" if library == "asyncpg" else "await connection.commit()"
    handles = [LEAVES.format(statements=each, commit=commit) for each in ([leave], [leave, take_back])]
    line = f"*SESSION  *onnection 1 went back to the pool with {named}, set by solo-00*"
    tells_apart(line, *(source(request, library, handle) for handle in handles))


SOAK = pytest.mark.soak
LIBRARIES = [pytest.param("asyncpg", marks=SOAK), "psycopg", pytest.param("psycopg, sync", marks=SOAK), "redis"]
KEEPS = """
    async def handle(pool, user):
        kept.append(await pool.GET())
"""
RETURNS = """
    async def handle(pool, user):
        connection = await pool.GET()
        await asyncio.sleep(0)
        await pool.BACK(connection)
"""


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_connection_that_is_kept_is_found(tells_apart, request, library):
    """And one that is returned is not."""
    line = "*POOL  solo-01 never returned *onnection 2*"
    tells_apart(line, *(source(request, library, handle) for handle in (KEEPS, RETURNS)))


USES_LATE = """
    async def handle(pool, user):
        connection = await pool.GET()
        await pool.BACK(connection)
        await {use}
"""
USES_IN_TIME = """
    async def handle(pool, user):
        connection = await pool.GET()
        await {use}
        await pool.BACK(connection)
"""


@pytest.mark.parametrize(
    "library, use",
    [
        ("psycopg", "connection.rollback()"),
        pytest.param("psycopg, sync", "connection.rollback()", marks=pytest.mark.soak),
        ("redis", "connection.send_command('PING'); await connection.read_response()"),
    ],
)
def test_use_after_return_is_found(tells_apart, request, library, use):
    """Of asyncpg the proxy refuses it, which is no fault; and in time it is none."""
    line = "*POOL  solo-00 used *onnection 1 after having returned it*"
    tells_apart(line, *(source(request, library, handle.format(use=use)) for handle in (USES_LATE, USES_IN_TIME)))


def test_what_asyncpg_refuses_is_no_fault(suite, request):
    """A proxy that was returned."""
    late = USES_LATE.replace("await {use}", "with pytest.raises(asyncpg.InterfaceError): await connection.execute('')")
    suite(source(request, "asyncpg", late)).assert_outcomes(passed=1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_more_than_the_limit_is_found(tells_apart, request, library):
    """One that the test sets, or the pool's own."""
    handle = RETURNS.replace("sleep(0)", "sleep(0.05)")
    line = "*POOL  user-0? was given *onnection ?, one too many*"
    tells_apart(line, *(source(request, library, handle, more) for more in (", limit=2", "")))


GIVEN_TWICE = {
    "psycopg": "pool._pool.appendleft(connection)",
    "redis": "pool._available_connections.append(connection)",
}


def test_asyncpg_lends_none_twice(suite, request):
    """It refuses by itself, so that nobody has what another has."""
    handle = """
    async def handle(pool, user):
        connection = await pool.GET()
        pool._queue.put_nowait(connection._holder)
        try:
            await asyncio.sleep(0.02)
        finally:
            pool._queue._queue.clear()
            await pool.BACK(connection)
    """
    suite(source(request, "asyncpg", handle)).stdout.fnmatch_lines(
        ["*InterfaceError: internal asyncpg error: connection is already proxied*"]
    )


@pytest.mark.parametrize("library", GIVEN_TWICE)
def test_two_owners_are_found(suite, request, library):
    """Of a pool that has lost count."""
    handle = f"""
    async def handle(pool, user):
        connection = await pool.GET()
        {GIVEN_TWICE[library]}
        await asyncio.sleep(0.02)
        kept.clear()
    """
    result = suite(source(request, library, handle))
    result.stdout.fnmatch_lines(["*POOL  * was given *onnection ? while * still had it*"])


ASKS = """
    async def handle(pool, user):
        connection = await pool.GET()
        try:
            await connection.send_packed_command(connection.pack_commands([("PING", user.id), ("PING",)]))
            {reads}
        finally:
            await pool.BACK(connection)
"""


def test_a_reply_that_nobody_reads_is_found(several, request):
    """Of redis-py, though it looks for one that has arrived; replies that are read, and errors, are none."""
    read = "await connection.read_response()"
    result = several([source(request, "redis", ASKS.format(reads=reads)) for reads in (read, f"{read}; {read}")])
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*POOL  solo-00 returned Connection 1 so that the next one meets what is in it",
            "*1 reply that nobody has read*",
        ]
    )


def test_a_client_of_redis_reads_what_it_asks(suite, request):
    """Pipelines, transactions, subscriptions, errors, and users who are cancelled."""
    handle = """
    async def handle(pool, user):
        client = redis.asyncio.Redis(connection_pool=pool)
        async with client.pipeline(transaction=user.index % 2) as pipe:
            pipe.set(user.id, user.id)
            pipe.get(user.id)
            await pipe.execute()
        async with client.pubsub() as listener:
            await listener.subscribe(user.id, "all")
        with pytest.raises(redis.asyncio.ResponseError):
            await client.lpop(user.id)
    """
    test = source(request, "redis", handle).replace("cancel=False", "cancel=True")
    suite(test).assert_outcomes(passed=1)


SYNC_REDIS = """
    import pytest, redis
    pool = redis.ConnectionPool.from_url("URL", max_connections=9)

    @pytest.mark.isolation(users=4)
    def test_it(user, isolation_watch):
        isolation_watch(pool)
        client = redis.Redis(connection_pool=pool)
        with client.pipeline() as pipe:
            pipe.set(user.id, user.id).get(user.id).execute()
        with pytest.raises(redis.ResponseError):
            client.lpop(user.id)
        connection = pool.get_connection()
        connection.send_command("PING")
        READS
        pool.release(connection)
        user.observe(user.id)

    @pytest.fixture(autouse=True)
    def closed():
        yield
        pool.disconnect()
"""


def test_replies_are_counted_without_an_event_loop_too(tells_apart, valkey):
    """In threads."""
    test = SYNC_REDIS.replace("URL", valkey)
    line = "*POOL  solo-00 returned Connection 1 so that the next one meets what is in it"
    tells_apart(line, *(test.replace("READS", reads) for reads in ("", "connection.read_response()")))
