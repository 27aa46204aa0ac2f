"""What is left in connections is found though nobody is given them again, and whatever way it got there."""

import textwrap

# pytester forgets what an inner run has imported, and these do not bear being imported twice.
import psycopg
import pytest
import servers
import sqlalchemy.dialects.postgresql.asyncpg
import sqlalchemy.dialects.postgresql.psycopg
import sqlalchemy.ext.asyncio
import sqlalchemy.orm  # noqa: F401

SETUP = """
    DROP ROLE IF EXISTS visitor; CREATE ROLE visitor; DROP TABLE IF EXISTS docs; DROP SEQUENCE IF EXISTS numbers;
    CREATE SEQUENCE numbers; CREATE TABLE docs (id int PRIMARY KEY, owner text);
    ALTER TABLE docs ENABLE ROW LEVEL SECURITY; GRANT ALL ON docs TO visitor;
    CREATE POLICY own ON docs USING (owner = current_setting('app.user_id', true));
    CREATE OR REPLACE FUNCTION hidden() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('statement_timeout', '7s', false); RETURN NEW; END $$;
    DROP TABLE IF EXISTS noted; CREATE TABLE noted (x int);
    CREATE TRIGGER hides BEFORE INSERT ON noted FOR EACH ROW EXECUTE FUNCTION hidden();
"""


@pytest.fixture(scope="module")
def postgres():
    """A real one, with a role, a sequence, row-level security, and a trigger that sets something."""
    with servers.postgres() as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            for statement in SETUP.replace("$$ BEGIN", "$b$ BEGIN").replace("END $$", "END $b$").split(";\n"):
                connection.execute(statement)
        yield server.url


@pytest.fixture(params=["asyncpg", "psycopg"])
def url(request, postgres):
    """Through each driver."""
    return postgres.replace("postgresql", f"postgresql+{request.param}")


# The other driver tells the same, and `make soak` says so.
ONE_DRIVER = pytest.mark.parametrize("url", ["asyncpg", pytest.param("psycopg", marks=pytest.mark.soak)], indirect=True)
OTHER_DRIVER = pytest.mark.parametrize(
    "url", [pytest.param("asyncpg", marks=pytest.mark.soak), "psycopg"], indirect=True
)


TEST = """
    import asyncio, gc, pytest, pytest_asyncio
    from sqlalchemy import event, text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    class Base(DeclarativeBase):
        pass

    class Doc(Base):
        __tablename__ = "docs"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[str]

    kept = []

    @pytest_asyncio.fixture
    async def engine():
        engine = create_async_engine("{url}", {options})
        yield engine
        for one in kept:
            await one.close()
        await engine.dispose()
        await asyncio.sleep(0.01)

    @pytest.mark.asyncio
    @pytest.mark.isolation(users={users}, cancel=False)
    async def test_it(user, engine, isolation_watch):
        if {when}:
            isolation_watch(engine)
        await handle(engine, user)
        user.observe(user.id)
"""
ONE = "pool_size=1, max_overflow=0"


def source(url, handle, options=ONE, when="True", users=3):
    test = TEST.format(url=url, options=options, when=when, users=users)
    return textwrap.dedent(test) + textwrap.dedent(handle)


def run(suite, url, handle, **options):
    return suite(source(url, handle, **options))


@pytest.fixture
def found(tells_apart):
    """Plays a fault and its correct twin on a server: one is found, with this line, and the other is silent."""

    def play(line, url, fault, twin, **options):
        tells_apart(line, *(source(url, handle, **options) for handle in (fault, twin)))

    return play


EXECUTES = """
    async def handle(engine, user):
        async with engine.connect() as connection:
            {before}
            for statement in {statements!r}:
                await connection.execute(text(statement))
            await connection.commit()
"""


def executes(*statements, before=""):
    return EXECUTES.format(statements=[*statements], before=before)


def test_a_connection_that_nobody_is_given_again_is_looked_at(found, url):
    """When the scene has ended: of twenty connections eight are used, and one user of them all leaves a role."""
    fault = """
    async def handle(engine, user):
        async with engine.connect() as connection:
            await asyncio.sleep(0.02)
            if user.index == 7:
                await connection.execute(text("SET ROLE visitor"))
                await connection.execute(text("SET jit_above_cost = 7"))
                await connection.commit()
    """
    twin = fault.replace("SET ROLE visitor", "RESET ROLE").replace('= 7"', '= DEFAULT"')
    line = (
        "*SESSION  connection * went back to the pool with role 'visitor', setting jit_above_cost = '7', set by user-07"
    )
    found(line, url, fault, twin, options="pool_size=20", users=8)


@OTHER_DRIVER
def test_what_was_left_before_anybody_watched_is_not_taken_for_clean(found, url):
    """The second user is the first to watch."""
    line = "*SESSION  connection 1 went back to the pool with role 'visitor', set by somebody*"
    twin = executes("SET ROLE visitor", "RESET ROLE")
    found(line, url, executes("SET ROLE visitor"), twin, when="user.index == 1")


@OTHER_DRIVER
def test_what_a_trigger_sets_is_found(suite, url):
    """Though the statement says nothing of it."""
    result = run(suite, url, executes("INSERT INTO noted VALUES (1)"))
    result.stdout.fnmatch_lines(["*SESSION * went back to the pool with statement_timeout = '7s', set by solo-00"])


DRIVER = """
    async def handle(engine, user):
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            {statements}
"""


def test_a_custom_setting_is_heard_past_sqlalchemy(found, url):
    """In what the driver's own connection executes."""
    end = "" if "asyncpg" in url else "; await driver.commit()"
    leaves = DRIVER.format(statements=f"await driver.execute(f\"SET my.name = '{{user.id}}'\"){end}")
    twin = DRIVER.format(
        statements=f"await driver.execute(\"SET my.name = 'x'\"); await driver.execute(\"SET my.name = ''\"){end}"
    )
    found("*SESSION * went back to the pool with my.name = '<id of solo-00>', set by solo-00", url, leaves, twin)


def test_a_raw_transaction_is_found(found, url):
    """Of psycopg where the pool does not roll back."""
    options = ONE + (", pool_reset_on_return=None" if "psycopg" in url else "")
    fault = DRIVER.format(statements="await driver.execute('BEGIN')")
    twin = DRIVER.format(statements="await driver.execute('BEGIN'); await driver.execute('ROLLBACK')")
    line = "*SESSION  connection 1 went back to the pool with an open transaction, set by solo-00"
    found(line, url, fault, twin, options=options)


@pytest.mark.usefixtures("impatient")
@OTHER_DRIVER
def test_a_connection_that_is_kept_in_a_transaction_is_called_so(suite, url):
    """For it keeps its locks."""
    handle = """
    async def handle(engine, user):
        kept.append(await engine.connect())
        await kept[-1].execute(text("SELECT 1"))
    """
    result = run(suite, url, handle, options="pool_size=9")
    result.stdout.fnmatch_lines(
        ["*POOL  solo-01 never returned connection 2", '*  seen      "it is idle in transaction; solo-01 acquired*']
    )


READS_ONLY = """
    async def handle(engine, user):
        async with engine.connect() as connection:
            if user.index % 2 == 0:
                await connection.execute(text("SELECT nextval('numbers')"))
            {more}
            await connection.execute(text("SELECT lastval()"))
            await connection.commit()
"""


def test_the_number_of_somebody_else_is_found(found, url):
    """Who asks for the last number of a sequence without having drawn one is given another's."""
    line = "*SESSION  solo-01 asked connection 1 for the last number of a sequence, which solo-00 had drawn"
    twin = READS_ONLY.format(more="await connection.execute(text(\"SELECT nextval('numbers')\"))")
    found(line, url, READS_ONLY.format(more=""), twin)


@ONE_DRIVER
def test_an_object_in_info_is_found(found, url):
    """It need not carry a secret."""
    handle = """
    class Person:
        pass
    async def handle(engine, user):
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            raw.info["person"] = Person()
            {more}
    """
    line = "*SESSION * with info[[]'person'[]] = <test_??.Person object at 0x*>, set by solo-00"
    found(line, url, handle.format(more=""), handle.format(more="del raw.info['person']"))


@pytest.mark.parametrize(
    "use",
    [
        "connection()",
        pytest.param("begin_nested()", marks=pytest.mark.soak),
        pytest.param("get(Doc, 1)", marks=pytest.mark.soak),
        pytest.param("stream(text('SELECT 1'))", marks=pytest.mark.soak),
        pytest.param("run_sync(lambda s: s.bulk_save_objects([]))", marks=pytest.mark.soak),
    ],
)
def test_a_shared_session_is_found_however_it_is_used(suite, postgres, use):
    """By two users, before it was closed."""
    handle = f"""
    shared = []
    async def handle(engine, user):
        if len(shared) < 2:
            shared.append(AsyncSession(engine))
        await shared[-1].{use}
        await shared[-1].rollback()
        kept[:] = shared
    """
    result = run(suite, postgres.replace("postgresql", "postgresql+asyncpg"), handle)
    result.stdout.fnmatch_lines(
        ["*SESSION  solo-02 used the Session of solo-01, and meets what is in its identity map*"]
    )


@ONE_DRIVER
def test_a_row_that_row_level_security_hides_is_met_in_a_shared_identity_map(found, url):
    """``get`` hands it out without asking; with a session of one's own it is hidden."""
    handle = """
    shared = []
    async def handle(engine, user):
        session = OWN
        shared.append(session)
        await session.execute(text("SET LOCAL ROLE visitor"))
        await session.execute(text("SELECT set_config('app.user_id', :id, true)"), {"id": user.id})
        if user.index == 0:
            session.add(Doc(id=hash(user.id) % 10**8, owner=user.id))
            await session.flush()
            await session.get(Doc, hash(user.id) % 10**8)
        elif shared:
            await session.get(Doc, 1)
        await session.rollback()
        CLOSE
    """
    faulty = handle.replace("OWN", "shared[-1] if shared else AsyncSession(engine)").replace(
        "CLOSE", "kept[:] = shared[:1]"
    )
    twin = handle.replace("OWN", "AsyncSession(engine)").replace("CLOSE", "await session.close()")
    found("*SESSION  solo-01 used the Session of solo-00, and meets what is in*", url, faulty, twin)


@pytest.mark.filterwarnings("ignore")
@ONE_DRIVER
def test_a_connection_that_is_dropped_is_called_so(suite, url):
    """And its pool does not run dry before that is told."""
    handle = """
    pytestmark = pytest.mark.filterwarnings("ignore")
    async def handle(engine, user):
        connection = await engine.connect()
        await connection.execute(text("SELECT 1"))
        del connection
    """
    result = run(suite, url, handle, options="pool_size=2, max_overflow=0, pool_timeout=5")
    result.stdout.fnmatch_lines(["*POOL  solo-0? dropped connection ? instead of returning it*"])


@ONE_DRIVER
def test_a_pool_that_lends_to_nobody_is_said_not_to_be_looked_at(suite, url):
    """Its listener raises where no user is at work."""
    handle = """
    from pytest_isolation.users.at_work import AT_WORK
    async def handle(engine, user):
        if not kept:
            @event.listens_for(engine.sync_engine, "checkout")
            def refuse(*_):
                if AT_WORK.get() is None:
                    raise LookupError("no user")
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await connection.commit()
    """
    result = run(suite, url, handle)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*what lies in it was not looked at when a scene had ended*LookupError: no user*"])


ROWS = """
    async def handle(engine, user):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT set_config('app.user_id', :id, true)"), {"id": user.id})
            TAKE
            await connection.execute(text("INSERT INTO docs (owner) VALUES (:id)"), {"id": user.id})
            rows = await connection.execute(text("SELECT owner FROM docs"))
            user.observe(sorted({row.owner for row in rows}))
            await connection.commit()
"""


@pytest.fixture
def documents(postgres):
    """None yet, and numbered."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("TRUNCATE docs")
        connection.execute("CREATE SEQUENCE IF NOT EXISTS ids")
        connection.execute("ALTER TABLE docs ALTER id SET DEFAULT nextval('ids')")
        connection.execute("GRANT ALL ON SEQUENCE ids TO visitor")


def test_rows_that_row_level_security_does_not_hide_are_found(suite, url, documents):
    """They are other users' secrets, and a note says why nothing was hidden."""
    result = run(suite, url, ROWS.replace("TAKE", ""))
    result.stdout.fnmatch_lines(
        [
            "LEAK  solo-01 received the secret 'id' of solo-00",
            "*engine of postgresql (*): row-level security of docs hides nothing from '*' (*",
        ]
    )


def test_rows_that_it_hides_are_none(suite, url, documents):
    """For a role that it binds."""
    result = run(suite, url, ROWS.replace("TAKE", "await connection.execute(text('SET LOCAL ROLE visitor'))"))
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*row-level security*")


ON_A_FILE = """
    import asyncio, pytest, pytest_asyncio
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    @pytest_asyncio.fixture
    async def isolation_engine(tmp_path):
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
        yield engine
        await engine.dispose()
        await asyncio.sleep(0.01)

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3, cancel=True)
    async def test_it(user, isolation_engine):
        async with isolation_engine.begin() as connection:
            await connection.execute(text("CREATE TABLE IF NOT EXISTS orders (owner)"))
        async with isolation_engine.begin() as connection:
            await connection.execute(text("INSERT INTO orders VALUES (:owner)"), {"owner": user.id})
            user.observe(user.id)
"""


def test_nobody_is_cut_in_a_question_of_ours(suite):
    """It is no point of the scenario's; and what would be left open there is closed, or it would lock the file."""
    result = suite(ON_A_FILE)
    result.assert_outcomes(passed=1)
    alone = suite(ON_A_FILE.replace("isolation_engine", "engine"))
    points = [one.stdout.str().partition("cancel sweep: ")[2].partition(" points")[0] for one in (result, alone)]
    assert points[0] == points[1] != ""
