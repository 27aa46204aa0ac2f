"""A budget that is missed says why: what the slowest calls spent their time on, by name."""

import json
import textwrap

import pytest
import servers

CAUSES = {
    "a lock convoy": (
        "concurrency=20, p95_ms=2",
        """
    class Registry:
        lock = asyncio.Lock()
        async def acquire(self):
            async with self.lock:
                await asyncio.sleep(0.001)
    async def body():
        await Registry().acquire()
        """,
        "waiting for a lock",
        "Registry.acquire, test_it.py:",
    ),
    "a neighbour that blocks the loop": (
        "p95_ms=4",
        """
    stalls = []
    async def stall():
        while True:
            time.sleep(0.012)
            await asyncio.sleep(0.001)
    async def body():
        if not stalls:
            stalls.append(asyncio.create_task(stall(), name="cleaner"))
        await asyncio.sleep(0.002)
        """,
        "loop queue",
        "behind task 'cleaner', stall",
    ),
    "garbage collection": (
        "p95_ms=2",
        """
    gc.freeze()  # what other tests have left is not this one's
    junk = [{"a": i, "b": [i]} for i in range(50_000)]
    async def body():
        await asyncio.sleep(0)
        gc.collect()
        """,
        "garbage collection",
        "",
    ),
    "own work": (
        "p95_ms=1",
        """
    async def body():
        await asyncio.sleep(0)
        end = time.thread_time() + 0.004
        while time.thread_time() < end:
            pass
        """,
        "own CPU",
        "",
    ),
    "a call that blocks": (
        "p95_ms=1",
        """
    async def body():
        time.sleep(0.004)
        """,
        "blocked in a call that does not await",
        "",
    ),
    "a timer": (
        "p95_ms=1",
        """
    async def body():
        await asyncio.sleep(0.004)
        """,
        "waiting for a timer",
        "body, test_it.py:",
    ),
}
TEST = """
    import asyncio, gc, time, pytest
    {setup}
    @pytest.mark.asyncio
    @pytest.mark.latency({budget})
    async def test_it():
        await body()
"""


@pytest.fixture(scope="module")
def postgres():
    """A real one."""
    with servers.postgres() as server:
        yield server.url


def causes(suite, pytester, source):
    """The causes in the report, and what was printed."""
    result = suite(source, "--isolation-report=report.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  slowest * of * calls that were traced: *"])
    [verdict] = json.loads((pytester.path / "report.json").read_text())["results"][0]["verdicts"]
    return [cause for cause in verdict["cause"]["causes"] if cause["name"] != "the machine"]  # others may use it now


@pytest.mark.parametrize("what", CAUSES)
def test_a_cause_is_told_by_its_name(suite, pytester, what):
    """As the largest share of what is not the machine's, with its place where it has one."""
    budget, setup, name, where = CAUSES[what]
    largest = causes(suite, pytester, TEST.format(setup=setup, budget=budget))[0]
    assert largest["name"] == name
    assert largest["where"].startswith(where)


def test_a_slow_query_on_sqlite(suite, pytester):
    """A part that is measured alone is explained alone."""
    source = """
        import aiosqlite, pytest

        SLOW = "with recursive c(n) as (select 1 union all select n + 1 from c where n < 40000) select count(*) from c"

        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=1)
        async def test_it(latency):
            async with aiosqlite.connect(":memory:") as database:

                async def query():
                    await (await database.execute(SLOW)).fetchone()

                await latency.measure(query)
    """
    largest = causes(suite, pytester, source)[0]
    assert largest["name"] == "waiting for the database"
    assert largest["where"].startswith("test_it.query, test_it.py:")


@pytest.mark.parametrize("driver", ["asyncpg", pytest.param("psycopg", marks=pytest.mark.soak)])
def test_a_slow_query_on_postgresql(suite, pytester, postgres, driver):
    """Through SQLAlchemy's bridge of greenlets too."""
    url = postgres.replace("postgresql://", f"postgresql+{driver}://")
    source = f"""
        import pytest
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine

        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=1)
        async def test_it(latency):
            engine = create_async_engine({url!r})
            async with engine.connect() as connection:

                async def query():
                    await connection.execute(text("select pg_sleep(0.004)"))

                await latency.measure(query)
            await engine.dispose()
    """
    largest = causes(suite, pytester, source)[0]
    assert largest["name"] == "waiting for the database"
    assert largest["where"].startswith("test_it.query, test_it.py:")


def test_a_sync_test_is_explained_too(suite, pytester):
    """As far as it can be: a call that blocks has no chain of awaits."""
    source = """
        import time, pytest

        @pytest.mark.latency(p95_ms=1)
        def test_it():
            time.sleep(0.004)
    """
    assert causes(suite, pytester, source)[0]["name"] == "blocked in a call that does not await"


def test_a_body_that_fails_when_it_is_run_again_keeps_its_verdict(suite):
    """The reason is a note."""
    result = suite(
        """
        import time, pytest

        runs = []

        @pytest.mark.latency(p95_ms=1)
        def test_it():
            runs.append(1)
            time.sleep(0.004)
            if len(runs) > 85:
                raise ValueError("used up")
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["OVER BUDGET  p95 = *", "*why it was over budget cannot be said*ValueError: used up"])


def test_a_budget_that_is_kept_is_not_traced(suite):
    """It would cost time for nothing."""
    result = suite(
        """
        import pytest

        runs = []

        @pytest.mark.latency(p95_ms=500)
        def test_it():
            runs.append(1)

        def test_runs():
            assert len(runs) == 125
        """
    )
    result.assert_outcomes(passed=2)


WHY_NOT = {
    "a part": (
        """
        @pytest.mark.latency(span="query", p95_ms=1)
        def test_it(latency):
            with latency.span("query"):
                time.sleep(0.002)
        """,
        "*only what is measured by itself is traced: `latency.measure(part, span='query')`*",
    ),
    "arrivals": (
        """
        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=1, rate=200)
        async def test_it():
            await asyncio.sleep(0.002)
        """,
        "*without the load that arrives, a traced run would tell another story*",
    ),
    "a crowd": (
        """
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=20, cancel=False)
        @pytest.mark.latency(p95_ms=1)
        async def test_it(user):
            await asyncio.sleep(0.002)
            user.observe(user.id)
        """,
        "*a crowd is not traced. Mark the same body with `latency` alone*",
    ),
}


@pytest.mark.parametrize("what", WHY_NOT)
def test_where_nobody_looks_for_the_cause_the_report_says_why(suite, what):
    """And what to do instead."""
    source, said = WHY_NOT[what]
    result = suite("import asyncio, pytest, time\n" + textwrap.dedent(source))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["OVER BUDGET*", f"  why it was over is not looked for: {said}"])
