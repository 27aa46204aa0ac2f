"""A database connection forgets who used it before it is lent again, and a session belongs to one user."""

import textwrap

# pytester forgets what an inner run has imported, and these do not bear being imported twice.
import aiosqlite  # noqa: F401
import pytest
import sqlalchemy.dialects.postgresql.asyncpg
import sqlalchemy.dialects.postgresql.psycopg
import sqlalchemy.dialects.sqlite.aiosqlite
import sqlalchemy.ext.asyncio
import sqlalchemy.orm  # noqa: F401

TEST = """
    import asyncio, pytest, pytest_asyncio
    from sqlalchemy import event, text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.pool import AsyncAdaptedQueuePool

    @pytest_asyncio.fixture
    async def isolation_engine():
        engine = create_async_engine("{url}", pool_size=1, max_overflow=0, poolclass=AsyncAdaptedQueuePool)
        prepare(engine)
        yield engine
        for connection in kept:
            await connection.close()
        await engine.dispose()
        await asyncio.sleep(0.01)  # what was aborted is closed in the next turn of the loop

    kept = []

    def prepare(engine):
        pass

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3, cancel=False)
    async def test_it(user, isolation_engine):
        await handle(isolation_engine, user)
        user.observe(user.id)
"""
RUN = """
    async def handle(engine, user):
        async with engine.connect() as connection:
            for statement in {statements!r}:
                await connection.execute(text(statement.replace("USER_ID", user.id)))
            await connection.commit()
"""
# Each: what leaves the state, what takes it back, and how a report names it.
STATES = {
    "a role": ("SET ROLE visitor", "RESET ROLE", "role 'visitor'"),
    "session authorisation": (
        "SET SESSION AUTHORIZATION visitor",
        "RESET SESSION AUTHORIZATION",
        "session authorization 'visitor'",
    ),
    "a search path": ("SET search_path = pg_catalog", "RESET search_path", "search_path = 'pg_catalog'"),
    "a time limit": ("SET statement_timeout = 5000", "RESET statement_timeout", "statement_timeout = '5s'"),
    "a custom setting": ("SET app.user_id = 'USER_ID'", "SET app.user_id = ''", "app.user_id = '<id of solo-00>'"),
    "another custom setting": (
        "SELECT set_config('app.user_id', 'USER_ID', false)",
        "SELECT set_config('app.user_id', '', false)",
        "app.user_id = '<id of solo-00>'",
    ),
    "a temporary table": ("CREATE TEMP TABLE draft AS SELECT 1 AS x", "DROP TABLE draft", "temporary table draft"),
    "an advisory lock": ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock_all()", "advisory lock 7"),
    "LISTEN": ("LISTEN news", "UNLISTEN *", "LISTEN news"),
    "a cursor": ("DECLARE peek CURSOR WITH HOLD FOR SELECT 1", "CLOSE peek", "cursor peek"),
    "a prepared statement": ("PREPARE asked AS SELECT 1", "DEALLOCATE asked", "prepared statement asked"),
}
DRIVERS = ["asyncpg", "psycopg"]


def source(url, *statements, more=""):
    return textwrap.dedent(TEST.format(url=url)) + textwrap.dedent(more or RUN.format(statements=list(statements)))


def run(suite, url, *statements, **options):
    return suite(source(url, *statements, **options))


@pytest.fixture(params=DRIVERS)
def url(request, postgres):
    """Through each driver."""
    return postgres.replace("postgresql", f"postgresql+{request.param}")


@pytest.fixture
def both(several, postgres):
    """Runs a test through each driver."""

    def run(more):
        urls = [postgres.replace("postgresql", f"postgresql+{driver}") for driver in DRIVERS]
        return several([source(url, more=more) for url in urls])

    return run


def test_what_is_left_in_a_connection_is_found(several, url):
    """When the next user is given the connection, and the report says what, and who set it."""
    result = several([source(url, leave) for leave, _, _ in STATES.values()])
    result.assert_outcomes(failed=len(STATES))
    result.stdout.fnmatch_lines(
        [
            line
            for _, _, named in STATES.values()
            for line in (
                f"*SESSION  connection 1 went back to the pool with {named}, set by solo-00",
                "*  channel   engine of postgresql (*)",
                '*  seen      "solo-00 acquired it at test_??.py:* in handle"',
            )
        ]
    )


def test_what_is_taken_back_is_none(suite, url, twin):
    """The state that the next user meets is the one that the first one met; of each kind, for each is undone alone."""
    statements = [statement for leave, take_back, _ in STATES.values() for statement in (leave, take_back)]
    twin.is_silent(run(suite, url, *statements))


OTHERS = {
    "an open transaction": (
        """
        async def handle(engine, user):
            async with engine.connect() as connection:
                raw = await connection.get_raw_connection()
                await raw.driver_connection.execute("BEGIN")
        """,
        """
        async def handle(engine, user):
            async with engine.connect() as connection:
                raw = await connection.get_raw_connection()
                await raw.driver_connection.execute("BEGIN")
                await raw.driver_connection.execute("ROLLBACK")
        """,
        "*SESSION  connection 1 went back to the pool with an open transaction, set by solo-00*",
    ),
    "a note in info": (
        """
        async def handle(engine, user):
            async with engine.connect() as connection:
                (await connection.get_raw_connection()).info["user"] = user.id
                await connection.execute(text("SELECT 1"))
        """,
        """
        async def handle(engine, user):
            async with engine.connect() as connection:
                raw = await connection.get_raw_connection()
                raw.info["user"] = user.id
                await connection.execute(text("SELECT 1"))
                raw.info.clear()
        """,
        "*SESSION  connection 1 went back to the pool with info[[]'user'[]] = '<id of solo-00>', set by solo-00*",
    ),
    "a session of two users": (
        """
        sessions = []
        async def handle(engine, user):
            session = sessions[-1] if len(sessions) > 1 else AsyncSession(engine)
            sessions.append(session)
            await session.execute(text("SELECT 1"))
            await session.rollback()
            if user.index == 2:
                await session.close()
        """,
        """
        session = None
        async def handle(engine, user):
            async with AsyncSession(engine) as session:
                await session.execute(text("SELECT 1"))
        """,
        "*SESSION  solo-02 used the Session of solo-01, and meets what is in its identity map*",
    ),
    "a connection that is kept": (
        """
        async def handle(engine, user):
            if user.index == 4:
                kept.append(await engine.connect())
        """,
        """
        async def handle(engine, user):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        """,
        "*POOL  solo-04 never returned connection 1",
    ),
}


@pytest.mark.usefixtures("impatient")
def test_other_leavings_are_found(several, url):
    """They are known without a question to the server; psycopg knows of a raw BEGIN, so that the pool's rollback ends it."""
    left = [fault for what, fault in OTHERS.items() if "asyncpg" in url or what != "an open transaction"]
    result = several([source(url, more=fault) for fault, _, _ in left])
    result.assert_outcomes(failed=len(left))
    result.stdout.fnmatch_lines([line for _, _, line in left])


def test_their_correct_twins_pass(several, url, twin):
    """Through both drivers."""
    twin.is_silent(several([source(url, more=correct) for _, correct, _ in OTHERS.values()]), tests=len(OTHERS))


LISTENERS = {
    "sets a role for each borrower": """
        from pytest_isolation.users.at_work import AT_WORK
        def prepare(engine):
            @event.listens_for(engine.sync_engine, "checkout")
            def take(connection, *_):
                cursor = connection.cursor()
                cursor.execute(f"SET app.user_id = '{AT_WORK.get()!r}'")
                cursor.execute("SET ROLE visitor")
                connection.commit()
        async def handle(engine, user):
            for _ in range(2):
                async with engine.connect() as connection:
                    await connection.execute(text("SELECT set_config('app.user_id', 'x', true)"))
        """,
    "sets it for those who are known, and does not commit": """
        from pytest_isolation.users.at_work import AT_WORK
        def prepare(engine):
            @event.listens_for(engine.sync_engine, "checkout")
            def take(connection, *_):
                if (user := AT_WORK.get()) is not None:
                    connection.cursor().execute(f"SET app.user_id = '{user!r}'")
        async def handle(engine, user):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT set_config('app.user_id', 'x', true)"))
        """,
    "takes everything back when a connection is lent": """
        def prepare(engine):
            @event.listens_for(engine.sync_engine, "checkout")
            def forget(connection, *_):
                connection.cursor().execute("RESET ROLE")
                connection.commit()
        async def handle(engine, user):
            async with engine.connect() as connection:
                await connection.execute(text("SET ROLE visitor"))
                await connection.commit()
        """,
    "takes everything back when a connection is returned": """
        def prepare(engine):
            @event.listens_for(engine.sync_engine, "checkin")
            def forget(connection, *_):
                connection.cursor().execute("RESET ROLE")
                connection.commit()
        async def handle(engine, user):
            async with engine.connect() as connection:
                await connection.execute(text("SET ROLE visitor"))
                await connection.commit()
        """,
    "tunes every connection that is opened": """
        def prepare(engine):
            @event.listens_for(engine.sync_engine, "connect")
            def tune(connection, _):
                connection.cursor().execute("SET search_path = pg_catalog")
                connection.commit()
        async def handle(engine, user):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        """,
    "binds a transaction": """
        async def handle(engine, user):
            async with engine.begin() as connection:
                await connection.execute(text("SET LOCAL ROLE visitor"))
                await connection.execute(text(f"SET LOCAL app.user_id = '{user.id}'"))
        """,
}


def test_a_correct_application_is_not_accused(several, url):
    """Whether it cleans up, or sets anew, at the end of a loan or at the beginning."""
    several([source(url, more=listener) for listener in LISTENERS.values()]).assert_outcomes(passed=len(LISTENERS))


def test_a_leak_is_found_beside_a_listener_that_does_something_else(both):
    """What the listener sets is its own, everything else is not."""
    more = LISTENERS["sets a role for each borrower"].replace("'x', true)", "'x', true), pg_advisory_lock(7)")
    both(more).stdout.fnmatch_lines(2 * ["*SESSION * went back to the pool with advisory lock 7, set by *"])


@pytest.mark.parametrize("url", ["asyncpg", pytest.param("psycopg", marks=pytest.mark.soak)], indirect=True)
def test_a_user_may_be_cancelled_while_a_connection_is_looked_at(suite, url):
    """The question is a suspension point like any other, and the pool takes the connection back."""
    more = """
        async def handle(engine, user):
            async with engine.begin() as connection:
                await connection.execute(text("SELECT 1"))
    """
    test = textwrap.dedent(TEST.format(url=url)) + textwrap.dedent(more)
    suite(test.replace("cancel=False", "cancel=True")).assert_outcomes(passed=1)


def test_what_is_left_is_found_in_a_served_application(suite, postgres):
    """With whose work it is."""
    test = """
        import asyncio, pytest, pytest_asyncio
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine

        @pytest_asyncio.fixture
        async def isolation_engine():
            engine = create_async_engine("URL", pool_size=1, max_overflow=0)
            yield engine
            await engine.dispose()
            await asyncio.sleep(0.01)

        @pytest.fixture
        def isolation_app(isolation_engine):
            async def app(scope, receive, send):
                if scope["type"] != "http":
                    return
                async with isolation_engine.connect() as connection:
                    await connection.execute(text(f"SET app.user_id = '{scope['path'][1:]}'"))
                    await connection.commit()
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": scope["path"].encode()})
            return app

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=3, cancel=False)
        async def test_it(user):
            await user.http.get(f"/{user.id}")
    """
    # A process of its own: its connections live in the server's loop, which nobody turns any more when they are closed.
    result = suite(test.replace("URL", postgres.replace("postgresql", "postgresql+asyncpg")), how="subprocess")
    result.stdout.fnmatch_lines(["*SESSION * with app.user_id = '<id of solo-00>', set by solo-00; solo-01 was*"])


SYNC = """
    import pytest, time
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import QueuePool

    @pytest.fixture
    def isolation_engine():
        engine = create_engine("{url}", pool_size=1, max_overflow=0, poolclass=QueuePool)
        yield [engine]
        engine.dispose()

    @pytest.mark.isolation(users=3)
    def test_it(user, isolation_engine):
        time.sleep(0.01)
        with isolation_engine[0].connect() as connection:
            for statement in {statements!r}:
                connection.execute(text(statement.replace("USER_ID", user.id)))
            connection.commit()
        user.observe(user.id)
"""


def test_a_sync_engine_is_watched_too(several, postgres):
    """Its users play in threads; what is taken back is none."""
    url = postgres.replace("postgresql", "postgresql+psycopg")
    states = [STATES[what] for what in ("a role", "a custom setting", "an advisory lock")]
    played = [statements for leave, take_back, _ in states for statements in ([leave], [leave, take_back])]
    result = several([SYNC.format(url=url, statements=statements) for statements in played])
    result.assert_outcomes(failed=len(states), passed=len(states))
    result.stdout.fnmatch_lines(
        [f"*SESSION * went back to the pool with {named}, set by solo-00" for _, _, named in states]
    )


ON_SQLITE = {
    "a temporary table": ("CREATE TEMP TABLE IF NOT EXISTS draft (x)", "DROP TABLE draft", "temporary table draft"),
    "another database": ("ATTACH ':memory:' AS uUSER_ID", "DETACH uUSER_ID", "attached database u<id of solo-00>"),
    "a pragma": ("PRAGMA query_only = 1", "PRAGMA query_only = 0", "PRAGMA query_only 1"),
    "how long it waits": ("PRAGMA busy_timeout = 7", "PRAGMA busy_timeout = 5000", "PRAGMA busy_timeout 7"),
}


@pytest.mark.parametrize("driver", ["pysqlite", "aiosqlite"])
def test_on_sqlite(several, pytester, driver):
    """Connections remember there too; what is taken back is none."""
    url = f"sqlite+{driver}:///{pytester.path}/test.db"

    def test(*statements):
        return source(url, *statements) if driver == "aiosqlite" else SYNC.format(url=url, statements=[*statements])

    states = ON_SQLITE.values()
    played = [statements for leave, take_back, _ in states for statements in ([leave], [leave, take_back])]
    result = several([test(*statements) for statements in played])
    result.assert_outcomes(failed=len(states), passed=len(states))
    result.stdout.fnmatch_lines(
        [f"*SESSION * went back to the pool with {named}, set by solo-00" for _, _, named in states]
    )


def test_nobody_is_asked_anything_who_did_not_hand_over_an_engine(suite, postgres):
    """No statement, no listener, no method of a session that is another."""
    test = """
        import asyncio, pytest
        from sqlalchemy import create_engine, text
        from sqlalchemy.orm import Session
        before = Session.execute
        engine = create_engine("URL")

        @pytest.mark.isolation(users=3)
        def test_it(user):
            assert Session.execute is before
            assert not list(engine.pool.dispatch.checkout)
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            user.observe(user.id)

        def test_afterwards():
            assert Session.execute is before
            engine.dispose()
    """
    suite(test.replace("URL", postgres.replace("postgresql", "postgresql+psycopg"))).assert_outcomes(passed=2)


def test_what_was_watched_is_as_before(suite, postgres):
    """When the test has ended."""
    more = """
        async def handle(engine, user):
            assert len(list(engine.pool.dispatch.checkout)) == 2
            await asyncio.sleep(0)
        @pytest.fixture(autouse=True)
        def check(request):
            before = AsyncSession.sync_session_class.execute
            yield
            assert AsyncSession.sync_session_class.execute is before
    """
    run(suite, postgres.replace("postgresql", "postgresql+asyncpg"), more=more).assert_outcomes(passed=1)


def test_a_connection_that_has_died_is_its_borrowers_business(both):
    """Which learns of it at its first statement, as it would if nobody watched."""
    more = """
        from sqlalchemy.exc import DBAPIError
        async def handle(engine, user):
            try:
                async with engine.connect() as connection:
                    pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            except DBAPIError:
                async with engine.connect() as connection:
                    pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            if user.index == 1:
                other = create_async_engine(str(engine.url.render_as_string(hide_password=False)))
                async with other.connect() as connection:
                    await connection.execute(text(f"SELECT pg_terminate_backend({pid})"))
                await other.dispose()
    """
    both(more).assert_outcomes(passed=2)


def test_what_is_taken_away_is_found(both):
    """A connection that opens with a weak role, and comes back without it."""
    more = """
        def prepare(engine):
            @event.listens_for(engine.sync_engine, "connect")
            def weaken(connection, _):
                connection.cursor().execute("SET ROLE visitor")
                connection.commit()
        async def handle(engine, user):
            async with engine.connect() as connection:
                await connection.execute(text("RESET ROLE"))
                await connection.commit()
    """
    line = "SESSION * went back to the pool with no more role 'visitor', set by solo-00"
    both(more).stdout.fnmatch_lines([line, line])


def test_a_scenario_that_never_commits_is_told_so(both):
    """For the rollback takes away most of what could be left."""
    more = """
        async def handle(engine, user):
            async with engine.connect() as connection:
                await connection.execute(text("SET ROLE visitor"))
    """
    result = both(more)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        2 * ["*engine of postgresql (*): nothing was committed, and a rollback takes away most of*"]
    )


def test_connections_that_are_thrown_away_are_not_missed(both):
    """By their borrower, who invalidates one or takes it out of the pool, and with their pool."""
    more = """
        async def handle(engine, user):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                await connection.commit()
                await connection.invalidate()
            async with engine.connect() as connection:
                raw = await connection.get_raw_connection()
                driver = raw.driver_connection
                raw.detach()
            await driver.close()
            if user.index == 2:
                await engine.dispose()
    """
    result = both(more)
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*Exception during reset*")
