"""What a pool lends belongs to one user at a time, and comes back once and clean."""

import textwrap

import pytest

POOL = """
    import asyncio, pytest

    class Buffer:
        def __init__(self):
            self.text = ""
        def write(self, text):
            self.text += text

    class Pool:
        def __init__(self, limit=50):
            self.max_size = limit
            self.free = []
        async def acquire(self):
            await asyncio.sleep(0)
            return self.free.pop() if self.free else Buffer()
        def release(self, buffer):
            self.free.append(buffer)

    pool = Pool()

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=6, cancel=False)
    async def test_it(user, isolation_watch):
        isolation_watch(pool, dirt=lambda buffer: buffer.text, uses=["write"])
        user.observe(await handle(user.id))
"""
# Each: what goes wrong, its correct twin, and the lines of the report.
FAULTS = {
    "two owners": (
        """
        async def handle(user_id):
            buffer = await pool.acquire()
            pool.release(buffer)
            pool.free.append(buffer)
            mine = await pool.acquire()
            await asyncio.sleep(0.01)
            pool.free = [one for one in pool.free if one is not mine]
            pool.release(mine)
            return user_id
        """,
        """
        async def handle(user_id):
            mine = await pool.acquire()
            await asyncio.sleep(0.01)
            pool.release(mine)
            return user_id
        """,
        [
            "POOL  user-0? was given Buffer 1 while user-0? still had it",
            "  channel   Pool",
            "*acquired it at test_??.py:* in handle*",
        ],
    ),
    "use after release": (
        """
        late = []
        async def handle(user_id):
            buffer = await pool.acquire()
            pool.release(buffer)
            await asyncio.sleep(0.01)
            buffer.write("")
            return user_id
        """,
        """
        async def handle(user_id):
            buffer = await pool.acquire()
            buffer.write("")
            await asyncio.sleep(0.01)
            pool.release(buffer)
            return user_id
        """,
        ["POOL  solo-00 used Buffer 1 after having returned it"],
    ),
    "dirty": (
        """
        async def handle(user_id):
            buffer = await pool.acquire()
            buffer.write(user_id)
            pool.release(buffer)
            return user_id
        """,
        """
        async def handle(user_id):
            buffer = await pool.acquire()
            buffer.write(user_id)
            buffer.text = ""
            pool.release(buffer)
            return user_id
        """,
        ["POOL  solo-01 was given Buffer 1 as solo-00 had left it", "*<id of solo-00>*"],
    ),
    "never returned": (
        """
        kept = []
        async def handle(user_id):
            kept.append(await pool.acquire())
            return user_id
        """,
        """
        kept = []
        async def handle(user_id):
            if not kept:  # one for all
                kept.append(await pool.acquire())
            await asyncio.sleep(0)
            return user_id
        """,
        ["POOL  solo-01 never returned Buffer 2", "*acquired it at test_??.py:* in handle*"],
    ),
    "dropped": (
        """
        async def handle(user_id):
            buffer = await pool.acquire()
            return user_id
        """,
        """
        async def handle(user_id):
            buffer = await pool.acquire()
            async def return_it():
                await asyncio.sleep(0.02)
                pool.release(buffer)
            asyncio.create_task(return_it())  # within the time that things have to settle
            return user_id
        """,
        ["POOL  solo-00 dropped Buffer 1 instead of returning it"],
    ),
    "returned twice": (
        """
        async def handle(user_id):
            buffer = await pool.acquire()
            pool.release(buffer)
            pool.release(buffer)
            pool.free.clear()
            return user_id
        """,
        """
        async def handle(user_id):
            for _ in range(2):
                buffer = await pool.acquire()
                pool.release(buffer)
            return user_id
        """,
        ["POOL  solo-00 returned Buffer 1 which was not lent: it had been returned before"],
    ),
    "grown past its limit": (
        """
        pool.max_size = 5
        async def handle(user_id):
            buffer = await pool.acquire()
            await asyncio.sleep(0.01)
            pool.release(buffer)
            return user_id
        """,
        """
        pool.max_size = 6
        async def handle(user_id):
            buffer = await pool.acquire()
            await asyncio.sleep(0.01)
            pool.release(buffer)
            return user_id
        """,
        ["POOL  user-05 was given Buffer 6, one too many", '*"6 are lent at once, and its limit is 5*'],
    ),
}


def on_a_pool(handle):
    return textwrap.dedent(POOL) + textwrap.dedent(handle)


@pytest.mark.usefixtures("impatient")
def test_each_fault_is_found(several):
    """And the report names who, what and whose."""
    result = several([on_a_pool(fault) for fault, _, _ in FAULTS.values()])
    result.assert_outcomes(failed=len(FAULTS))
    result.stdout.fnmatch_lines([f"*{line}*" for _, _, lines in FAULTS.values() for line in lines])


def test_their_correct_twins_pass(several, twin):
    """Nothing is found where everything comes back."""
    twin.is_silent(several([on_a_pool(correct) for _, correct, _ in FAULTS.values()]), tests=len(FAULTS))


REAL = """
    import asyncio, asyncpg, pytest, pytest_asyncio, redis, redis.asyncio

    @pytest_asyncio.fixture
    async def pool():
        {pool}
        kept = []
        yield pool, kept
        {close}
        await asyncio.sleep(0.01)

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=4, cancel={cancel})
    async def test_it(user, pool, isolation_watch):
        pool, kept = pool
        isolation_watch(pool)
        {use}
        user.observe(user.id)
"""
ASYNCPG = (
    "pool = await asyncpg.create_pool('{url}', min_size=1, max_size=9)",
    "[await pool.release(one) for one in kept]; await pool.close()",
)
REDIS = (
    "pool = redis.asyncio.Redis.from_url('{url}', max_connections=9)",
    "[await pool.connection_pool.release(one) for one in kept]; await pool.aclose()",
)
USES = {
    "asyncpg": (
        ASYNCPG,
        "async with pool.acquire() as connection: await connection.fetchval('SELECT 1'); await pool.release(connection)",
        "kept.append(await pool.acquire())",
        "*POOL  solo-01 never returned Connection 2",
    ),
    "redis-py": (
        REDIS,
        "await pool.set('key', user.id); await pool.get('key')",
        "kept.append(await pool.connection_pool.get_connection())",
        "*POOL  solo-01 never returned Connection 2",
    ),
}


@pytest.mark.parametrize("library", USES)
def test_a_real_pool_is_watched_as_it_is(several, request, library):
    """Nothing is found where connections come back; of asyncpg they may be returned twice. One that is kept is found."""
    (pool, close), use, keep, line = USES[library]
    url = request.getfixturevalue("postgres" if library == "asyncpg" else "valkey")
    pool = pool.format(url=url)
    played = [(use, False), (use, True), (keep, False)]
    result = several([REAL.format(pool=pool, close=close, use=use, cancel=cancel) for use, cancel in played])
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([line])


LEFT = {
    "a role": ("SET ROLE pg_monitor", "RESET ROLE", "role 'pg_monitor'"),
    "a temporary table": (
        "CREATE TEMP TABLE IF NOT EXISTS draft (x int)",
        "DROP TABLE draft",
        "temporary table draft",
    ),
    "a setting": ("SET search_path = pg_catalog", "", ""),  # its own reset forgets it
}


def test_what_the_reset_of_asyncpg_forgets_is_found(several, postgres):
    """A role and a temporary table."""
    use = "async with pool.acquire() as connection: await connection.execute({!r})"
    pool, close = ASYNCPG
    options = {"pool": pool.format(url=postgres), "close": close}
    tests = [REAL.format(use=use.format(leave), cancel=False, **options) for leave, _, named in LEFT.values() if named]
    tests += [
        REAL.format(use=use.format(f"{leave}; {back}"), cancel=True, **options) for leave, back, _ in LEFT.values()
    ]
    result = several(tests)
    result.assert_outcomes(failed=2, passed=3)
    result.stdout.fnmatch_lines(
        [
            f"SESSION  Connection 1 went back to the pool with {named}, set by solo-00"
            for _, _, named in LEFT.values()
            if named
        ]
    )


def test_a_pool_tells_by_itself(suite):
    """Where it has other methods, or none."""
    suite("""
        import asyncio, pytest
        free = []

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4, cancel=False)
        async def test_it(user, isolation_watch):
            recorder = isolation_watch.recorder("buffers", limit=4)
            buffer = free.pop() if free else bytearray()
            recorder.acquired(buffer, dirt=buffer.decode())
            recorder.used(buffer)
            buffer += user.id.encode()
            await asyncio.sleep(0)
            recorder.released(buffer)
            free.append(buffer)
            user.observe(user.id)
    """).stdout.fnmatch_lines(
        [
            "*POOL  solo-01 was given bytearray 1 as solo-00 had left it",
            "  channel   buffers",
            '  seen      "<id of solo-00>; solo-00 acquired it at test_it.py:*',
        ]
    )


def test_a_lease_stands_for_what_is_lent(suite):
    """``of`` says what is in it, and a lease that is dropped is missed."""
    suite("""
        import asyncio, pytest

        class Lease:
            def __init__(self, thing): self.thing = thing
        class Pool:
            free = [object()]
            def acquire(self): return Lease(self.free[0])
            def release(self, lease): pass
        pool = Pool()

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4, cancel=False)
        async def test_it(user, isolation_watch):
            isolation_watch(pool, name="slots", of=lambda lease: lease.thing)
            lease = pool.acquire()
            await asyncio.sleep(0)
            pool.release(lease)
            user.observe(user.id)
    """).stdout.fnmatch_lines(["*POOL  user-01 was given object 1 while user-00 still had it", "  channel   slots"])


def test_what_is_no_pool_is_refused(suite):
    """With what is one."""
    suite("""
        def test_it(isolation_watch):
            isolation_watch({})
    """).stdout.fnmatch_lines(
        ["*a dict is no pool that is known: isolation_watch(pool) takes an engine of SQLAlchemy*"]
    )


def test_checks_from_code_hear_of_it(suite):
    """``isolation.check`` plays users of its own."""
    suite("""
        import asyncio, pytest
        class Pool:
            kept = []
            def acquire(self): return object()
            def release(self, thing): pass
        pool = Pool()

        @pytest.mark.asyncio
        async def test_it(isolation, isolation_watch):
            isolation_watch(pool)
            async def scenario(user):
                pool.kept.append(pool.acquire())
                user.observe(user.id)
                await asyncio.sleep(0)
            report = await isolation.check(scenario, users=3, fail=False)
            assert {finding.kind for finding in report.findings} == {"pool"}
    """).assert_outcomes(passed=1)


OVER_HTTP = """
    import asyncio, httpx, pytest, pytest_asyncio

    async def answer(reader, writer):
        while await reader.readline() not in (b"\\r\\n", b""):
            pass
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
        await writer.drain()
        writer.close()

    @pytest_asyncio.fixture
    async def client():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client
        server.close()
        await asyncio.sleep(0.01)

    kept = []

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=4, cancel=False)
    async def test_it(user, client, isolation_watch):
        isolation_watch(client)
        assert (await client.get("/")).text == "ok"
        response = await client.send(client.build_request("GET", "/"), stream=True)
        USE
        user.observe(user.id)
"""


@pytest.mark.usefixtures("impatient")
def test_a_response_that_nobody_closes_keeps_a_connection(several):
    """Of a client of httpx."""
    result = several([OVER_HTTP.replace("USE", use) for use in ("kept.append(response)", "await response.aclose()")])
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["POOL  solo-01 never returned response *", "  channel   client of httpx"])


def test_more_responses_than_the_limit_are_found(suite):
    """One that the test sets; the client keeps its own."""
    test = OVER_HTTP.replace("USE", "await asyncio.sleep(0.05); await response.aclose()")
    result = suite(test.replace("isolation_watch(client)", "isolation_watch(client, limit=2)"))
    result.stdout.fnmatch_lines(["POOL  user-0? was given response *, one too many"])
    own = test.replace("trust_env=False", "trust_env=False, limits=httpx.Limits(max_connections=2)")
    suite(own).assert_outcomes(passed=1)


# How a pool can hand out an object, and how users take it; the pool itself is correct.
SHAPES = """
    import asyncio, pytest
    from collections.abc import Coroutine
    from contextlib import asynccontextmanager, contextmanager

    class Conn: pass

    class Pool:
        def __init__(self):
            self.free, self.permits = [Conn() for _ in range(50)], asyncio.Semaphore(50)
        async def take(self):
            await self.permits.acquire()
            return self.free.pop()
        def release(self, conn):
            assert conn is None or type(conn) is Conn
            self.free.append(conn)
            self.permits.release()

    class Tasked(Pool):
        def acquire(self): return asyncio.ensure_future(self.take())

    class Awaitable:
        def __init__(self, pool): self.pool = pool
        def __await__(self): return self.pool.take().__await__()

    class Entered:
        def __init__(self, pool): self.pool = pool
        async def __aenter__(self):
            self.conn = await self.pool.take()
            return self.conn
        async def __aexit__(self, *error): self.pool.release(self.conn)

    class Both(Entered, Awaitable): pass

    class Like(Both, Coroutine):  # of aiomysql and aiopg
        coroutine = None
        def send(self, value):
            self.coroutine = self.coroutine or self.pool.take()
            return self.coroutine.send(value)
        def throw(self, *error): return self.coroutine.throw(*error)
        def close(self): return self.coroutine and self.coroutine.close()

    def handing_out(kind):
        class Handing(Pool):
            def acquire(self): return kind(self)
        return Handing

    class Generated(Pool):
        @asynccontextmanager
        async def acquire(self):
            conn = await self.take()
            try:
                yield conn
            finally:
                self.release(conn)

    class GeneratedSync(Pool):
        @contextmanager
        def acquire(self):
            conn = self.free.pop()
            try:
                yield conn
            finally:
                self.release(conn)

    class Keyword(Pool):
        acquire = Pool.take

    class Own(Pool):  # what it lends is a context manager itself, and more than that
        class Conn(Conn):
            def execute(self): return 1
            async def __aenter__(self): return self
            async def __aexit__(self, *error): pass
        def acquire(self): return self.Conn()
        def release(self, conn): assert type(conn) is self.Conn

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=6, cancel=False)
    async def test_it(user, isolation_watch):
        pool = isolation_watch(POOL)
        user.observe(user.id)
        BODY
"""
AWAITED, BY_NAME, ENTERED = (
    "conn = await pool.acquire(); await asyncio.sleep(0.001); pool.release(conn)",
    "conn = await pool.acquire(); await asyncio.sleep(0.001); pool.release(conn=conn)",
    "async with pool.acquire() as conn: await asyncio.sleep(0.001)",
)
# Each: the pool, how it is used, and how something of it is forgotten.
SHAPED = {
    "keyword": ("Keyword", BY_NAME, "await pool.acquire()"),
    "task": ("Tasked", AWAITED, "await pool.acquire()"),
    "awaitable": ("handing_out(Awaitable)", AWAITED, "await pool.acquire()"),
    "entered": ("handing_out(Entered)", ENTERED, "await pool.acquire().__aenter__()"),
    "both, awaited": ("handing_out(Both)", AWAITED, "await pool.acquire()"),
    "both, entered": ("handing_out(Both)", ENTERED, "await pool.acquire().__aenter__()"),
    "coroutine-like": ("handing_out(Like)", AWAITED, "await pool.acquire()"),
    "coroutine-like, in a task": (
        "handing_out(Like)",
        "conn = await asyncio.create_task(pool.acquire()); await asyncio.sleep(0.001); pool.release(conn)",
        "await asyncio.create_task(pool.acquire())",
    ),
    "coroutine-like, entered": ("handing_out(Like)", ENTERED, "await pool.acquire().__aenter__()"),
    "generated": ("Generated", ENTERED, "kept.append(m := pool.acquire()); await m.__aenter__()"),
    "generated, sync": (
        "GeneratedSync",
        ENTERED.removeprefix("async "),
        "kept.append(m := pool.acquire()); m.__enter__()",
    ),
    "a context manager itself": ("Own", AWAITED.replace("await pool.acquire", "pool.acquire"), "pool.acquire()"),
}


def shaped(pool, body):
    return SHAPES.replace("BODY", body).replace("POOL", "pool_") + f"    kept, pool_ = [], {pool}()\n"


def test_a_pool_may_hand_out_what_is_awaited_or_entered(several):
    """What comes out of it is lent, and returned once."""
    several([shaped(pool, use) for pool, use, _ in SHAPED.values()]).assert_outcomes(passed=len(SHAPED))


def test_what_came_out_of_it_and_is_forgotten_is_found(several):
    """Under its own name."""
    result = several([shaped(pool, forgets) for pool, _, forgets in SHAPED.values()])
    result.assert_outcomes(failed=len(SHAPED))
    assert sum(line.startswith("POOL  solo-0") and " Conn " in line for line in result.outlines) >= len(SHAPED)


def test_a_pool_may_have_none_to_lend(suite):
    """Nothing is nobody's, and may be given to many."""
    source = """
    import pytest
    class Pool:
        def acquire(self): return None
        def release(self, thing): pass
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=6, cancel=False)
    async def test_it(user, isolation_watch):
        isolation_watch(Pool()).acquire()
        user.observe(user.id)
    """
    suite(source, "-Wignore").assert_outcomes(passed=1)


def test_a_release_without_an_object_fails_as_it_did(suite):
    """The pool says so, in its own words."""
    source = """
    import pytest
    class Pool:
        def acquire(self): return object()
        def release(self, thing): pass
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3, cancel=False)
    async def test_it(user, isolation_watch):
        isolation_watch(Pool()).release()
    """
    result = suite(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*missing 1 required positional argument: 'thing'*"])


def test_who_is_cut_while_a_task_acquires_for_it_is_not_in_the_way(suite):
    """The task is cancelled as it would be without us, and keeps nothing of the pool."""
    source = SHAPES.replace("cancel=False", "cancel=True").replace("50", "1").replace("POOL", "pool_")
    body = "conn = await pool.acquire()\n        try: await asyncio.sleep(0.001)\n        finally: pool.release(conn)"
    source = source.replace("BODY", body) + "    pool_ = Tasked()\n"
    suite(source).assert_outcomes(passed=1)
