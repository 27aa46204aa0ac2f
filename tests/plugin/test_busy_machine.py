"""A budget holds, or does not, whoever else uses the machine."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="this kernel does not say how long threads wait"
)

# Beside two busy processes, and more where there are more cores: a millisecond of CPU time, whatever the core does at
# the moment. (Imports beside them would take longer than all the rest.)
BESIDE = """
    import multiprocessing
    import subprocess
    import sys
    from time import thread_time
    import pytest

    @pytest.fixture(scope="module", autouse=True)
    def neighbours():
        busy = [sys.executable, "-c", "while True: pass"]
        hogs = [subprocess.Popen(busy) for _ in range(multiprocessing.cpu_count())]
        yield
        for hog in hogs:
            hog.kill()
            hog.wait()

    def a_millisecond():
        start = thread_time()
        while thread_time() - start < 0.001:
            pass
"""
TIMED = """
    @pytest.mark.parametrize("turn", range({times}))
    @pytest.mark.latency(p95_ms={budget_ms})
    def test_it(turn):
        a_millisecond()
"""
# The same, timed by what a backend uses anyway.
HEARD = """
    {source}

    @pytest.mark.parametrize("turn", range({times}))
    @pytest.mark.parametrize("budget", [
        pytest.param("1.25 ms", marks=pytest.mark.latency(span="query", p95_ms=1.25)),
        pytest.param("0.5 ms", marks=pytest.mark.latency(span="query", p95_ms=0.5)),
    ])
    def test_it(turn, budget, latency):
        latency.listen_to(source)
        with timed("query"):
            a_millisecond()
"""
OTEL = (
    "from opentelemetry.sdk.trace import TracerProvider; "
    "source = TracerProvider(); timed = source.get_tracer('shop').start_as_current_span"
)
METRICS = "from reference_impl.metrics import Metrics; source = Metrics(); timed = source.timed_operation"


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.soak)])
def test_at_80_percent_of_its_budget_a_test_is_green_every_time(pytester, times):
    """And where the wall clock says otherwise, the report says why."""
    pytester.makepyfile(BESIDE + TIMED.format(times=times, budget_ms=1.25))
    result = pytester.runpytest_subprocess("--isolation-budget", "--isolation-max-seconds=5")
    result.assert_outcomes(passed=times)
    said = result.stdout.str()
    assert "machine time excluded" in said
    assert re.search(r"the machine was busy: of [\d.]+ m?s that were sampled, [\d.]+ m?s went to waiting", said)


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.soak)])
def test_at_200_percent_of_its_budget_a_test_is_red_every_time(pytester, times):
    """What the machine adds excuses nothing of the rest."""
    pytester.makepyfile(BESIDE + TIMED.format(times=times, budget_ms=0.5))
    pytester.runpytest_subprocess("--isolation-budget").assert_outcomes(failed=times)


@pytest.mark.parametrize(
    ("source", "times"),
    [
        pytest.param(OTEL, 1, id="OpenTelemetry"),
        pytest.param(OTEL, 50, id="OpenTelemetry, 50 times", marks=pytest.mark.soak),
        pytest.param(METRICS, 50, id="timed operations, 50 times", marks=pytest.mark.soak),
    ],
)
def test_so_it_is_where_somebody_else_takes_the_time(pytester, source, times):
    """The machine's part is known there too: 80 % of a budget is green, 200 % is red."""
    pytester.makepyfile(BESIDE + HEARD.format(source=source, times=times))
    result = pytester.runpytest_subprocess("--isolation-budget", "--isolation-max-seconds=5")
    result.assert_outcomes(passed=times, failed=times)
    result.stdout.fnmatch_lines(["*[[]1.25 ms-*machine time excluded*"])
    result.stdout.no_fnmatch_line("*no clock*")


def test_where_nobody_knows_the_machines_part_the_report_says_so(suite):
    """A latency that was measured elsewhere is taken as it is."""
    result = suite(
        """
        import pytest

        @pytest.mark.latency(span="query", p95_ms=1)
        def test_it(latency):
            latency.record(0.002, span="query")
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no machine clock: time that other processes took cannot be told*", "*no clock*fail"])
