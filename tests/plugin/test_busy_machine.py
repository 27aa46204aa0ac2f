"""A budget holds, or does not, whoever else uses the machine."""

import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="this kernel does not say how long threads wait"
)

# A millisecond of CPU time, whatever the core does at the moment.
TESTS = """
    import pytest
    from time import thread_time

    def a_millisecond():
        start = thread_time()
        while thread_time() - start < 0.001:
            pass

    @pytest.mark.parametrize("turn", range({times}))
    @pytest.mark.latency(p95_ms={budget_ms})
    def test_it(turn):
        a_millisecond()
"""


@pytest.fixture
def neighbours():
    """Two busy processes, and more where there are more cores."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(multiprocessing.cpu_count())]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


@pytest.mark.parametrize("times", [10, pytest.param(50, marks=pytest.mark.soak)])
def test_at_80_percent_of_its_budget_a_test_is_green_every_time(pytester, neighbours, times):
    """And where the wall clock says otherwise, the report says why."""
    pytester.makepyfile(TESTS.format(times=times, budget_ms=1.25))
    result = pytester.runpytest_subprocess("--isolation-budget", "--isolation-max-seconds=5")
    result.assert_outcomes(passed=times)
    said = result.stdout.str()
    assert "machine time excluded" in said
    assert re.search(r"the machine was busy: of [\d.]+ m?s that were sampled, [\d.]+ m?s went to waiting", said)


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_at_200_percent_of_its_budget_a_test_is_red_every_time(pytester, neighbours, times):
    """What the machine adds excuses nothing of the rest."""
    pytester.makepyfile(TESTS.format(times=times, budget_ms=0.5))
    pytester.runpytest_subprocess("--isolation-budget").assert_outcomes(failed=times)
