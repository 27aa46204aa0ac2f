"""@pytest.mark.latency: three verdicts, on every kind of test."""

import pytest

FAST = "pass"
KINDS = {
    "function": """
        import pytest
        @pytest.mark.latency(p95_ms=BUDGET)
        def test(): work()
    """,
    "method": """
        import pytest
        class TestIt:
            name = "it"
            @pytest.mark.latency(p95_ms=BUDGET)
            def test(self):
                assert self.name == "it"
                work()
    """,
    "static method": """
        import pytest
        class TestIt:
            @staticmethod
            @pytest.mark.latency(p95_ms=BUDGET)
            def test(): work()
    """,
    "class marker": """
        import pytest
        @pytest.mark.latency(p95_ms=BUDGET)
        class TestIt:
            def test(self): work()
    """,
    "module marker": """
        import pytest
        pytestmark = pytest.mark.latency(p95_ms=BUDGET)
        def test(): work()
    """,
    "parametrised": """
        import pytest
        @pytest.mark.latency(p95_ms=BUDGET)
        @pytest.mark.parametrize("n", [1])
        def test(n, tmp_path): work()
    """,
    "asyncio": """
        import pytest
        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=BUDGET)
        async def test(): work()
    """,
    "asyncio method": """
        import pytest
        @pytest.mark.asyncio
        class TestIt:
            @pytest.mark.latency(p95_ms=BUDGET)
            async def test(self): work()
    """,
    "anyio": """
        import pytest
        @pytest.fixture(params=["asyncio"])
        def anyio_backend(request): return request.param
        @pytest.mark.anyio
        @pytest.mark.latency(p95_ms=BUDGET)
        async def test(): work()
    """,
    "trio": """
        import pytest
        @pytest.fixture(params=["trio"])
        def anyio_backend(request): return request.param
        @pytest.mark.anyio
        @pytest.mark.latency(p95_ms=BUDGET)
        async def test(): work()
    """,
}
WORK = """
def work():
    import time
    end = time.perf_counter() + 0.0005
    while time.perf_counter() < end: pass
"""


def source(kind, budget):
    import textwrap

    return textwrap.dedent(KINDS[kind]).replace("BUDGET", str(budget)) + WORK


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_that_is_kept_passes(suite, kind):
    """A budget of a second for half a millisecond."""
    result = suite(source(kind, 1000), "--isolation-budget")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 budget: 1 within*"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_that_is_missed_fails_with_the_evidence(suite, kind):
    """A hundredth of a millisecond for half a one: in CI mode and without."""
    result = suite(source(kind, 0.01))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "OVER BUDGET  p95 = * (99 % interval * … *), budget 10 µs",
            "  80 of 80 samples over budget (100 %; 5 % allowed); confirmed in a second run of 40",
            "*1 budget: 1 over*",
        ]
    )


def test_an_undecided_budget_passes_and_says_so(suite):
    """Without CI mode only what is proven fails; a second is not enough for a slow body."""
    result = suite(
        """
        import pytest, time
        @pytest.mark.latency(p95_ms=100)
        def test(): time.sleep(0.02)
        """,
        "--isolation-max-seconds=0.3",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*UNDECIDED  p95*, budget 100 ms", "  0 of * too few samples: *, and p95 needs 120 or more", "*1 undecided*"]
    )


@pytest.mark.parametrize(("undecided", "outcome"), [("warn", {"passed": 1}), ("fail", {"failed": 1})])
def test_in_ci_mode_doubt_may_fail(suite, undecided, outcome):
    """That is for the team to say."""
    result = suite(
        """
        import pytest, time
        @pytest.mark.latency(p95_ms=100)
        def test(): time.sleep(0.02)
        """,
        "--isolation-budget",
        "--isolation-max-seconds=0.2",
        f"--isolation-undecided={undecided}",
    )
    result.assert_outcomes(**outcome)


def test_every_budget_of_a_test_is_judged(suite):
    """p50, p95, p99 and max in one marker."""
    result = suite(
        """
        import pytest
        @pytest.mark.latency(p50_ms=500, p95_ms=600, p99_ms=700, max_ms=800)
        def test(): pass
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test * p50 ≤ 500 ms *", "*p95 ≤ 600 ms *", "*p99 ≤ 700 ms *", "*max ≤ 800 ms *"])
    result.stdout.fnmatch_lines(["*4 budgets: 4 within*"])


def test_the_closest_marker_wins(suite):
    """As pytest does with markers."""
    result = suite(
        """
        import pytest
        pytestmark = pytest.mark.latency(p95_ms=0.000001)
        @pytest.mark.latency(p95_ms=1000)
        def test(): pass
        """
    )
    result.assert_outcomes(passed=1)


def test_markers_add_up_and_the_closest_wins_where_they_judge_the_same(suite):
    """A class says p95 for all, a method p50 besides, and another p95 for a span."""
    result = suite(
        """
        import pytest
        @pytest.mark.latency(p95_ms=1000, p50_ms=0.000001)
        class TestIt:
            @pytest.mark.latency(p50_ms=900)
            @pytest.mark.latency(span="part", p95_ms=800)
            def test(self, latency):
                with latency.span("part"):
                    pass
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines_random(
        ["*p50 ≤ 900 ms*", "*p95 ≤ 1 s*", "*[[]part]*p95 ≤ 800 ms*", "3 budgets: 3 within*"]
    )


def test_a_span_has_a_budget_of_its_own(suite):
    """The body is slow, the span is not; and the other way round."""
    result = suite(
        """
        import pytest, time
        @pytest.mark.latency(span="quick", p95_ms=500)
        @pytest.mark.latency(p95_ms=600)
        def test_both(latency):
            with latency.span("quick"):
                pass

        @pytest.mark.latency(span="slow", p95_ms=0.001)
        def test_slow(latency):
            with latency.span("slow"):
                time.sleep(0.0001)
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["OVER BUDGET  span 'slow'  p95*", "*test_both [[]quick]*pass", "*test_slow [[]slow]*fail"]
    )


def test_spans_work_in_async_tests(suite):
    """With `async with` and with `with`."""
    result = suite(
        """
        import pytest
        @pytest.mark.anyio
        @pytest.mark.latency(span="a", p95_ms=500)
        @pytest.mark.latency(span="b", p95_ms=500)
        async def test(latency):
            async with latency.span("a"):
                with latency.span("b"):
                    pass
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(passed=2)


def test_a_recorded_latency_is_judged_instead_of_the_body(suite):
    """It may have been measured by somebody else."""
    result = suite(
        """
        import pytest
        @pytest.mark.latency(p95_ms=10)
        def test(latency): latency.record(0.02)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["OVER BUDGET  p95 = 20 ms*"])


def test_measure_samples_a_part_and_runs_the_body_once(suite):
    """For bodies that cannot be repeated."""
    result = suite(
        """
        import anyio, pytest
        bodies, parts = [], []
        @pytest.mark.anyio
        @pytest.mark.latency(p95_ms=500)
        async def test(latency, tmp_path, anyio_backend):
            (tmp_path / "once").mkdir()
            bodies.append(anyio_backend)
            async def part():
                parts.append(1)
                await anyio.sleep(0)
            await latency.measure(part)
        def test_counts():
            assert sorted(bodies) == ["asyncio", "trio"] and len(parts) == 2 * 125
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(passed=3)


def test_measure_without_a_budget_is_a_mistake(suite):
    """There would be nothing to decide."""
    result = suite(
        """
        import pytest
        @pytest.mark.asyncio
        async def test(latency):
            async def part(): ...
            await latency.measure(part)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*measure() has no budget to decide: mark the test with latency(p95_ms=…)*"])


def test_arrivals_at_a_rate(suite):
    """An open model: latency counts from the moment at which a run was due."""
    result = suite(
        """
        import pytest, anyio
        @pytest.mark.anyio
        @pytest.mark.latency(p95_ms=500, rate=400)
        async def test(): await anyio.sleep(0.01)
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(passed=2)


def test_fixtures_are_made_once_and_the_body_runs_often(suite):
    """120 samples after five to warm up."""
    result = suite(
        """
        import pytest
        made, runs = [], []
        @pytest.fixture
        def thing():
            made.append(1)
            return object()
        @pytest.mark.latency(p95_ms=500)
        def test(thing): runs.append(thing)
        def test_counts(): assert (len(made), len(runs)) == (1, 125)
        """
    )
    result.assert_outcomes(passed=2)


def test_a_failing_assert_fails_as_always(suite):
    """With the assertion's own words, and nothing of ours."""
    result = suite(
        """
        import pytest
        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=500)
        async def test(): assert [1] == [2]
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert [[]1] == [[]2]", "test_it.py:4: AssertionError"])
    result.stdout.no_fnmatch_line("*sampler.py*")


def test_a_body_that_cannot_be_repeated_is_told_so(suite):
    """Fixtures are made once, so the second run meets what the first one left."""
    result = suite(
        """
        import pytest
        @pytest.mark.latency(p95_ms=500)
        def test(tmp_path): (tmp_path / "d").mkdir()
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *FileExistsError*", "E *pytest-isolation: 1 run of the body ended well before this one failed*"]
    )


@pytest.mark.parametrize(
    ("statement", "outcome"),
    [
        ("pytest.skip('no')", {"skipped": 1}),
        ("pytest.xfail('no')", {"xfailed": 1}),
        ("pytest.fail('no')", {"failed": 1}),
    ],
)
@pytest.mark.parametrize("kind", ["", "async "])
def test_an_outcome_inside_the_body_is_the_tests_outcome(suite, statement, outcome, kind):
    """Nothing is judged then."""
    result = suite(
        f"""
        import pytest
        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=500)
        {kind}def test(): {statement}
        """
        if kind
        else f"""
        import pytest
        @pytest.mark.latency(p95_ms=500)
        def test(): {statement}
        """
    )
    result.assert_outcomes(**outcome)
    result.stdout.no_fnmatch_line("*1 budget*")


def test_a_missed_budget_can_be_expected_and_is_shown_all_the_same(suite):
    """xfail hides the failure, not the verdict."""
    result = suite(
        """
        import pytest
        @pytest.mark.xfail(strict=True)
        @pytest.mark.latency(p95_ms=0.000001)
        def test(): pass
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["*p95 ≤ 1 ns*fail", "*1 budget: 1 over*"])


def test_warnings_as_errors_change_nothing(suite):
    """-W error, as strict teams have it."""
    result = suite(
        source("asyncio", 1000) + "\n" + source("function", 1000).replace("def test", "def test_sync"), "-W", "error"
    )
    result.assert_outcomes(passed=2)


def test_the_plugin_may_be_named_a_second_time(suite):
    """`-p` and `pytest_plugins` find the one that the entry point has registered."""
    result = suite(source("function", 1000), "-p", "pytest_isolation.plugin")
    result.assert_outcomes(passed=1)


MEASURED = """
    import asyncio, pytest
    runs = dict(body=0, part=0)
    async def part(): runs["part"] += 1
    def part_sync(): runs["part"] += 1
    {body}
    def test_counts():
        assert runs["body"] == 1
        assert runs["part"] == {count}
"""


@pytest.mark.parametrize(
    ("marker", "call"),
    [("p95_ms=500", "part"), ("p95_ms=500", "lambda: part()"), ("span='s', p95_ms=500", "part, span='s'")],
)
def test_an_async_body_can_measure_a_part_of_itself(suite, marker, call):
    """The part is sampled until it is decided, and the body runs once."""
    body = f"""
    @pytest.mark.asyncio
    @pytest.mark.latency({marker})
    async def test(latency):
        runs["body"] += 1
        await latency.measure({call})
    """
    result = suite(MEASURED.format(body=body, count=125), "--isolation-budget")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["test* 120 *p95 ≤ 500 ms*pass"])


@pytest.mark.parametrize(("marker", "call"), [("max_ms=500", ""), ("span='s', max_ms=500", ", span='s'")])
def test_a_sync_body_can_measure_a_part_of_itself(suite, marker, call):
    """The body's own time is no sample, or it would be the maximum."""
    body = f"""
    @pytest.mark.latency({marker})
    def test(latency):
        runs["body"] += 1
        latency.measure_sync(part_sync{call})
        import time; time.sleep(0.6)
    """
    result = suite(MEASURED.format(body=body, count=105), "--isolation-budget")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["test* 100 *max ≤ 500 ms*pass"])


def test_two_parts_are_measured_by_spans_of_their_own(suite):
    """Each by its budget."""
    result = suite(
        """
        import pytest, time
        @pytest.mark.latency(span="quick", p95_ms=500)
        @pytest.mark.latency(span="slow", p95_ms=0.01)
        def test(latency):
            latency.measure_sync(lambda: None, span="quick")
            latency.measure_sync(lambda: time.sleep(0.0005), span="slow")
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines_random(["*[[]quick]*pass", "*[[]slow]*fail"])


@pytest.mark.parametrize(
    ("marker", "statement", "said"),
    [
        ("p95_ms=500", "await latency.measure(len)", "*len() takes exactly one argument*"),
        ("p95_ms=500", "await latency.measure(dict)", "*measure() takes an async function; for a sync one*"),
        ("p95_ms=500", "latency.measure_sync(part)", "*without awaiting it: nothing of it was run*"),
        ("p95_ms=500", "await latency.measure(part, span='s')", "*mark the test with latency(span='s', p95_ms=…)*"),
        ("span='s', p95_ms=500", "await latency.measure(part)", "*on the span 's': measure(part, span='s')*"),
        (
            "p95_ms=500",
            "await latency.measure(part); await latency.measure(part)",
            "*the body has been measured before; give every part a span of its own*",
        ),
    ],
)
def test_a_part_that_cannot_be_measured_is_refused(suite, marker, statement, said):
    """With the right form."""
    result = suite(
        f"""
        import pytest
        async def part(): pass
        @pytest.mark.asyncio
        @pytest.mark.latency({marker})
        async def test(latency):
            {statement}
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said])


def test_a_scenario_cannot_measure_a_part(suite):
    """Its crowd is what repeats it."""
    result = suite(
        """
        import asyncio, pytest
        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=500)
        @pytest.mark.isolation(users=3)
        async def test(user, latency):
            user.observe(user.id)
            await latency.measure(lambda: asyncio.sleep(0))
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*measure() cannot work in an isolation scenario*"])


def test_many_arrivals_in_flight_are_all_counted(suite):
    """A thousand a second, fifty milliseconds each: fifty are under way at any time."""
    result = suite(
        """
        import asyncio, pytest
        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=10000, rate=1000)
        async def test(): await asyncio.sleep(0.05)
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test *p95 ≤ 10 s*pass", "*1 budget: 1 within*"])
