"""Nothing measured is a failure, never a pass."""

import pytest

CASES = {
    "a coroutine is dropped by a sync body": (
        """
        @pytest.mark.latency(p95_ms=500)
        def test(): fetch()
        """,
        "*coroutine 'fetch' was never awaited*nothing to judge*",
    ),
    "a coroutine is dropped by an async body": (
        """
        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=500)
        async def test(): fetch()
        """,
        "*coroutine 'fetch' was never awaited*nothing to judge*",
    ),
    "a coroutine is dropped under trio": (
        """
        @pytest.mark.anyio
        @pytest.mark.latency(p95_ms=500)
        async def test(): fetch()
        """,
        "*coroutine 'fetch' was never awaited*nothing to judge*",
    ),
    "a coroutine is returned": (
        """
        @pytest.mark.latency(p95_ms=500)
        def test(): return fetch()
        """,
        "*the body returned 'fetch' without awaiting it*",
    ),
    "a coroutine is dropped by a scenario": (
        """
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=2)
        async def test(user):
            user.observe(user.id)
            fetch()
        """,
        "*coroutine 'fetch' was never awaited*",
    ),
    "a coroutine is observed": (
        """
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=2)
        async def test(user): user.observe(fetch())
        """,
        "*observe() got the coroutine fetch()*Await it*",
    ),
    "nothing is observed": (
        """
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=2)
        async def test(user): user.id
        """,
        "*the scenario observed nothing, so no leak could have been seen*user.observe(*",
    ),
    "nothing is planted": (
        """
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=2)
        async def test(user): user.observe("OK")
        """,
        "*the scenario planted nothing: without user.id*",
    ),
    "a span is never entered": (
        """
        @pytest.mark.latency(span="agent.create", p95_ms=500)
        def test(latency):
            with latency.span("agent.crate"): pass
        """,
        "*p95 ≤ 500 ms has no sample: the span 'agent.create' was never measured*'agent.crate'*",
    ),
    "no async plugin takes the test": (
        """
        @pytest.mark.latency(p95_ms=500)
        async def test(): pass
        """,
        "*async def functions are not natively supported*",
    ),
    "no async plugin takes the scenario": (
        """
        @pytest.mark.isolation(users=2)
        async def test(user): user.observe(user.id)
        """,
        "*async def functions are not natively supported*",
    ),
}


@pytest.mark.parametrize("warnings", [(), ("-W", "error")], ids=["", "W-error"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_measured_is_red(suite, case, warnings):
    """With warnings as errors and without."""
    source, message = CASES[case]
    import textwrap

    result = suite(f"import pytest\nasync def fetch(): ...\n{textwrap.dedent(source)}", *warnings)
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) == 0
    assert outcomes.get("failed", 0) >= 1
    result.stdout.fnmatch_lines([message])


def test_a_plugin_that_never_calls_the_body_is_found_out(suite, pytester):
    """pytest-run-parallel once replaced async bodies by something that awaited nothing."""
    pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(pyfuncitem): return True
        """
    )
    result = suite("import pytest\n@pytest.mark.latency(p95_ms=500)\ndef test(): pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*pytest-isolation: the body never ran*"])


def test_an_old_pytest_that_skips_async_tests_is_no_excuse(suite, pytester):
    """Before 8.4, pytest skipped what no async plugin took."""
    pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(pyfuncitem): pytest.skip("async def function and no async plugin installed")
        """
    )
    result = suite("import pytest\n@pytest.mark.latency(p95_ms=500)\nasync def test(): pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*pytest-isolation: the body never ran*"])


@pytest.mark.parametrize("mark", ["isolation(users=2)", "latency(p95_ms=500)"])
def test_an_async_test_that_nobody_marked_is_told_which_mark_it_needs(suite, mark):
    """Beside pytest's own text, which names five plugins; a test of somebody else's is left alone."""
    source = f"""
    import pytest
    @pytest.mark.{mark}
    async def test_it(user): user.observe(user.id)
    async def test_another(): pass
    """
    result = suite(source)
    result.assert_outcomes(failed=2)
    said = [line for line in result.outlines if "mark it with @pytest.mark.anyio or @pytest.mark.asyncio" in line]
    assert len(said) == 1


UNUSED = {
    "users": ("def test(users): pass", "*the test takes `users`, and never called it: alice, bob = users(2)*"),
    "users in an async test": (
        "@pytest.mark.asyncio\nasync def test(users): pass",
        "*the test takes `users`, and never called it*",
    ),
    "latency": (
        "def test(latency): pass",
        "*the test takes `latency`, and nothing was measured with it: with latency.span('agent.create')*",
    ),
    "a span that is never entered": (
        "def test(latency): latency.span('a')",
        "*the test takes `latency`, and nothing was measured with it*",
    ),
    "latency beside users": (
        "def test(users, latency): users(1)[0].observe(1)",
        "*the test takes `latency`, and nothing was measured with it*",
    ),
}


@pytest.mark.parametrize("case", UNUSED)
def test_a_fixture_that_was_never_used_is_red(suite, case):
    """As `isolation` that was never called."""
    source, message = UNUSED[case]
    result = suite(f"import pytest\n{source}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])


def test_a_fixture_that_was_used_or_is_somebody_elses_is_green(suite):
    """Or that a fixture takes for whoever wants it, or beside a marker that has something measured."""
    suite(
        """
        import pytest

        def part(): pass

        @pytest.fixture
        def pair(users): return lambda: users(2)

        @pytest.fixture
        def alice(users): return users(1)[0]

        def test_lazily(pair): pass
        def test_by_a_fixture(users, alice): alice.observe(alice.id)
        def test_a_span(latency):
            with latency.span("a"): pass
        def test_recorded(latency): latency.record(0.1)
        def test_raised(latency):
            with pytest.raises(ValueError), latency.span("a"): raise ValueError
        def test_compared(latency): latency.compare_sync(part, part)
        @pytest.mark.latency(p95_ms=500)
        def test_marked(latency): pass
        def test_skipped(users): pytest.skip("not here")

        class TestOwn:
            @pytest.fixture
            def users(self): return ["alice", "bob"]
            @pytest.fixture
            def latency(self): return 3
            def test_own(self, users, latency, user): pass
        """,
        "--isolation-max-seconds=0.2",
    ).assert_outcomes(passed=8, skipped=1)


def test_a_test_that_fails_says_why_and_not_what_it_did_not_use(suite):
    """It had not got to it."""
    result = suite("def test(users): assert 1 == 2")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2*"])
    result.stdout.no_fnmatch_line("*never called it*")
