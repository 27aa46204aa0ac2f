"""Several runs of a body at once, as the marker asks for, and what the report says of them."""

import pytest

BODY = """
    import anyio
    import pytest

    busy = anyio.Lock()

    @pytest.mark.anyio
    @pytest.mark.latency({marker})
    async def test_it():
        {work}
"""


@pytest.fixture(autouse=True)
def plain(pytester):
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest(
        "import pytest\n\n@pytest.fixture(params=['asyncio', 'trio'])\ndef anyio_backend(request):\n    return request.param\n"
    )


def test_concurrency_is_labelled_as_closed(pytester):
    """A miss says how it came about."""
    pytester.makepyfile(
        BODY.format(marker="p95_ms=1, concurrency=20", work="async with busy: await anyio.sleep(0.001)")
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["OVER BUDGET  p95 = *", "  20 in flight at once, each followed by the next (closed)"])


def test_a_rate_is_labelled_as_paced(pytester):
    """From when a run was due."""
    pytester.makepyfile(BODY.format(marker="p95_ms=0.5, rate=300", work="await anyio.sleep(0.002)"))
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["  paced: 300 arrivals a second, timed from when they were due, begun * late (p95)"])


def test_users_come_at_their_rate(pytester):
    """Each of them."""
    pytester.makepyfile(BODY.format(marker="p95_ms=0.5, users=10, rate=50", work="await anyio.sleep(0.002)"))
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["  paced: 10 users, each 50 arrivals a second, timed from when they were due*"])


def test_overload_is_said_instead_of_a_quantile(pytester):
    """It would be another one tomorrow."""
    pytester.makepyfile(BODY.format(marker="p95_ms=900, rate=400", work="async with busy: await anyio.sleep(0.005)"))
    result = pytester.runpytest_inprocess("--isolation-budget", "--isolation-max-samples=150", "-k", "asyncio")
    result.stdout.fnmatch_lines(["*UNDECIDED  p95, budget 900 ms", "*overloaded: the queue is still growing"])


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("p95_ms=1, concurrency=0", "*latency(concurrency=0): it takes a whole number from 1 to 1000*"),
        ("p95_ms=1, concurrency=1001", "*it takes a whole number from 1 to 1000*"),
        ("p95_ms=1, concurrency=2.5", "*it takes a whole number from 1 to 1000*"),
        ("p95_ms=1, users=5", "*latency(users=5) does not say how often each of them comes: users=5, rate=2*"),
        ("p95_ms=1, concurrency=5, rate=5", "*latency(concurrency=…, rate=…) contradicts itself*"),
        ("p95_ms=10**400", "*it takes a number > 0 of milliseconds*"),
    ],
)
def test_what_makes_no_sense_is_refused_at_collection(pytester, marker, said):
    """Before anything runs."""
    pytester.makepyfile(BODY.format(marker=marker, work="pass"))
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_concurrency_needs_an_async_test(pytester):
    """A sync body would block the others."""
    pytester.makepyfile("import pytest\n\n@pytest.mark.latency(p95_ms=1, concurrency=5)\ndef test_it():\n    pass\n")
    result = pytester.runpytest_inprocess()
    result.stderr.fnmatch_lines(["*latency(concurrency=…) needs an async test*"])


def test_a_crowd_is_at_once_anyway(pytester):
    """Two numbers of users would contradict each other."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.anyio
        @pytest.mark.latency(p95_ms=1, concurrency=5)
        @pytest.mark.isolation(users=5)
        async def test_it(user):
            pass
        """
    )
    result = pytester.runpytest_inprocess()
    result.stderr.fnmatch_lines(
        ["*says nothing in an isolation test, whose crowd is at once anyway: isolation(users=100)"]
    )
