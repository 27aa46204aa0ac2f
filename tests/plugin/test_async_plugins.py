"""The same test file gives the same verdicts under every async plugin and mode."""

import pytest

MARKED = """
    import anyio, pytest
    DECORATOR
    @pytest.mark.latency(p95_ms=500)
    async def test_latency(value):
        assert value == 3
        await anyio.sleep(0)
    DECORATOR
    @pytest.mark.isolation(users=5)
    async def test_isolation(user, value):
        await anyio.sleep(0)
        user.observe(user.secret("note"))
    DECORATOR
    @pytest.mark.isolation(users=5)
    async def test_leak(user, value):
        value_of["last"] = user.secret("note")
        await anyio.sleep(0)
        user.observe(value_of["last"])
    value_of = {}
"""
ASYNC_FIXTURE = """
    FIXTURE
    async def value():
        await anyio.sleep(0)
        yield 3
"""
MODES = {
    "pytest-asyncio strict": ("@pytest.mark.asyncio", "@pytest_asyncio.fixture", "", ("-p", "no:anyio")),
    "pytest-asyncio strict beside anyio": ("@pytest.mark.asyncio", "@pytest_asyncio.fixture", "", ()),
    "pytest-asyncio auto": ("", "@pytest.fixture", "asyncio_mode = auto", ("-p", "no:anyio")),
    "pytest-asyncio auto beside anyio": ("", "@pytest.fixture", "asyncio_mode = auto", ()),
    "anyio": ("@pytest.mark.anyio", "@pytest.fixture", "", ("-p", "no:asyncio")),
    "anyio beside pytest-asyncio": ("@pytest.mark.anyio", "@pytest.fixture", "", ()),
    "anyio auto": ("", "@pytest.fixture", "anyio_mode = auto", ("-p", "no:asyncio")),
}


@pytest.mark.parametrize("mode", MODES)
def test_marked_async_tests_work(suite, mode):
    """Async fixtures of the suite included; anyio plays on asyncio and on trio."""
    decorator, fixture, ini, options = MODES[mode]
    source = "import pytest_asyncio\n" if "pytest_asyncio" in fixture else ""
    import textwrap

    source += textwrap.dedent(MARKED).replace("DECORATOR", decorator)
    source += textwrap.dedent(ASYNC_FIXTURE).replace("FIXTURE", fixture)
    result = suite(source, *options, ini=ini)
    loops = 2 if mode.startswith("anyio") else 1
    result.assert_outcomes(passed=2 * loops, failed=loops)
    result.stdout.fnmatch_lines(["LEAK  user-00 received the secret 'note' of user-04"])


def test_loop_factories_of_pytest_asyncio_work(suite, pytester):
    """A test is judged on each of them."""
    pytester.makeconftest(
        """
        import asyncio
        def pytest_asyncio_loop_factories(config, item):
            return {"one": asyncio.SelectorEventLoop, "two": asyncio.SelectorEventLoop}
        """
    )
    result = suite(
        """
        import pytest
        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=500)
        async def test(): pass
        """
    )
    result.assert_outcomes(passed=2)


def test_a_wider_loop_scope_works(suite):
    """Tests that share a loop."""
    result = suite(
        """
        import asyncio, pytest
        pytestmark = pytest.mark.asyncio(loop_scope="module")
        loops = []
        @pytest.mark.latency(p95_ms=500)
        async def test_one(): loops.append(asyncio.get_running_loop())
        @pytest.mark.isolation(users=3)
        async def test_two(user):
            await asyncio.sleep(0)
            user.observe(user.id)
            loops.append(asyncio.get_running_loop())
        async def test_three(): assert len(set(map(id, loops))) == 1
        """
    )
    result.assert_outcomes(passed=3)


def test_context_variables_of_async_fixtures_are_seen_by_every_user(suite):
    """They belong to the test, and each user has a copy."""
    result = suite(
        """
        import asyncio, contextvars, pytest, pytest_asyncio
        app = contextvars.ContextVar("app")
        @pytest_asyncio.fixture
        async def ready(): app.set("the app")
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=3)
        async def test(user, ready):
            user.observe([user.id, app.get()])
            app.set(user.id)
            await asyncio.sleep(0)
        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=500)
        async def test_latency(ready): assert app.get() == "the app"
        """
    )
    result.assert_outcomes(passed=2)
