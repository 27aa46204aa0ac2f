"""Named parts come from the test, from OpenTelemetry, and from the rounds of pytest-benchmark."""

import pytest

OTEL = """
    import pytest
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    {provider}
    tracer = trace.get_tracer("shop"{given})

    @pytest.mark.latency(span="database.query", p95_ms=500)
    def test_query({takes}):
        {first}
        with tracer.start_as_current_span("request"), tracer.start_as_current_span("database.query"):
            pass
"""


@pytest.fixture(autouse=True)
def plain(pytester):
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\naddopts = -p no:cacheprovider")


def test_spans_of_opentelemetry_are_judged_by_name(pytester):
    """Those of the provider that is set globally."""
    provider = "trace.set_tracer_provider(TracerProvider())"
    pytester.makepyfile(OTEL.format(provider=provider, given="", takes="", first=""))
    result = pytester.runpytest_subprocess("--isolation-budget")  # a process has one for good
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_query [[]database.query[]]*120*pass"])


def test_another_provider_is_heard_when_it_is_named(pytester):
    """Hundreds of times, and once is enough."""
    text = OTEL.format(
        provider="PROVIDER = TracerProvider()",
        given=", tracer_provider=PROVIDER",
        takes="latency",
        first="latency.listen_to(PROVIDER)",
    )
    pytester.makepyfile(text)
    result = pytester.runpytest_inprocess("--isolation-budget")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_query [[]database.query[]]*120*pass"])


def test_a_span_that_ended_in_error_is_no_sample(pytester):
    """As one of our own that raises."""
    pytester.makepyfile(
        OTEL.format(provider="trace.set_tracer_provider(TracerProvider())", given="", takes="", first="")
        + """
    @pytest.mark.latency(span="broken", p95_ms=500)
    def test_broken():
        try:
            with tracer.start_as_current_span("broken"):
                raise ValueError
        except ValueError:
            pass
"""
    )
    result = pytester.runpytest_inprocess("-k", "broken")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the span 'broken' raised each of the * times it was entered*"])


def test_between_tests_nobody_listens(pytester):
    """What another test traces is none of this one's samples."""
    pytester.makepyfile(
        OTEL.format(provider="trace.set_tracer_provider(TracerProvider())", given="", takes="", first="")
        + """
    def test_other():
        with tracer.start_as_current_span("database.query"):
            pass

    from pytest_isolation.latency import otel

    def test_nobody_listens():
        assert {listener.ledger for listener in otel._listeners.values()} == {None}
"""
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=3)


def test_what_is_no_provider_is_refused(pytester):
    """With the right form."""
    pytester.makepyfile("def test_it(latency):\n    latency.listen_to(3)\n")
    result = pytester.runpytest_inprocess()
    result.stdout.fnmatch_lines(["*listen_to() takes a TracerProvider *, or an object with listen(hear), not 3*"])


def test_what_the_reference_backend_times_is_judged(pytester):
    """Its timed operations, in the same words."""
    pytester.makepyfile(
        """
        import pytest
        from reference_impl.metrics import Metrics

        METRICS = Metrics()

        @pytest.mark.asyncio
        @pytest.mark.latency(span="api.request", p95_ms=500)
        async def test_it(latency):
            latency.listen_to(METRICS)
            async with METRICS.timed_operation("api.request", {"endpoint": "/chat"}):
                pass

        def test_nobody_listens_afterwards():
            assert METRICS._hear is None
        """
    )
    result = pytester.runpytest_inprocess("--isolation-budget")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["test_it [[]api.request[]]*120*pass"])


@pytest.fixture
def outside_of_xdist(monkeypatch):
    """pytest-benchmark measures nothing in a process whose environment names a worker."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


ROUNDS = """
    import time
    import pytest

    @pytest.mark.latency(p95_ms={budget})
    def test_rounds(benchmark):
        benchmark.pedantic({what}, rounds=300, iterations={iterations})
"""


def test_the_rounds_of_pytest_benchmark_are_judged(pytester, outside_of_xdist):
    """All of them, and the body runs once."""
    pytester.makepyfile(ROUNDS.format(budget=500, what="lambda: None", iterations=1))
    result = pytester.runpytest_inprocess("--isolation-budget")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_rounds *300*pass"])


def test_rounds_over_budget_fail(pytester, outside_of_xdist):
    """The later ones confirm what the first ones showed."""
    pytester.makepyfile(ROUNDS.format(budget=0.1, what="lambda: time.sleep(0.001)", iterations=1))
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["OVER BUDGET  p95 = *", "*confirmed in a second run of*"])


def test_rounds_of_several_calls_are_means_and_it_says_so(pytester, outside_of_xdist):
    """A mean hides the slow ones."""
    pytester.makepyfile(ROUNDS.format(budget=500, what="lambda: None", iterations=10))
    result = pytester.runpytest_inprocess("--isolation-budget")
    result.stdout.fnmatch_lines(["*a round of pytest-benchmark is the mean of 10 calls here, and hides the slow ones"])


def test_a_benchmark_that_measures_nothing_is_no_pass(pytester):
    """Switched off, it only calls the function."""
    pytester.makepyfile(ROUNDS.format(budget=500, what="lambda: None", iterations=1))
    result = pytester.runpytest_inprocess("--benchmark-disable")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the `benchmark` fixture measured nothing: it was not called, or*switched off*"])


def test_a_span_object_times_one_thing_at_once(pytester):
    """Entered again inside, its first entry would be lost."""
    pytester.makepyfile(
        """
        def test_it(latency):
            span = latency.span("part")
            with span, span:
                pass
        """
    )
    result = pytester.runpytest_inprocess()
    result.stdout.fnmatch_lines(["*this span 'part' is entered already*call latency.span('part') for each*"])


def test_a_span_object_may_be_used_again(pytester):
    """One after another is no matter."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.latency(span="part", p95_ms=500)
        def test_it(latency):
            span = latency.span("part")
            for _ in range(3):
                with span:
                    pass
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
