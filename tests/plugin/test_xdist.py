"""Everything that workers prove reaches the controller."""

import json
import re
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

SOURCE = """
    import anyio, pytest
    pytestmark = pytest.mark.asyncio
    @pytest.mark.latency(p95_ms=500)
    async def test_fast(): pass
    @pytest.mark.latency(p95_ms=0.000001)
    async def test_slow(): pass
    @pytest.mark.isolation(users=5)
    async def test_apart(user):
        await anyio.sleep(0)
        user.observe(user.id)
    last = None
    @pytest.mark.isolation(users=5)
    async def test_leak(user):
        global last
        last = user.secret("note")
        await anyio.sleep(0)
        user.observe(last)
    @pytest.mark.memory(peak_mb=2)
    async def test_held(): bytes(1_000_000)
    async def test_unmarked(): pass
"""


SHOWN = [
    r"test_fast .*pass",
    r"test_slow .*fail",
    r"test_held  peak .*pass",
    r"2 budgets: 1 within, 1 over; 1 memory limit: 1 within; 2 scenarios played 29 times: 4 findings \(seed \d+",
]
TESTS = ["test_apart", "test_fast", "test_held", "test_leak", "test_slow"]
REPORTS = ("--isolation-budget", "--isolation-report=out/report.json", "--junitxml=junit.xml")


def judged(folder):
    """The tests that the report has."""
    results = json.loads((folder / "out" / "report.json").read_text())["results"]
    return sorted(result["nodeid"].rpartition("::")[2] for result in results)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """A session with two of them: what it said, and where its reports are."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (folder / "test_it.py").write_text(textwrap.dedent(SOURCE))
    without = ("-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:hypothesispytest")
    command = [sys.executable, "-m", "pytest", *without, "-n", "2", *REPORTS]
    ended = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    return SimpleNamespace(folder=folder, said=ended.stdout)


def test_the_summary_and_the_report_are_complete(workers):
    """Of what workers measured, and it is said that they were there."""
    for line in (*SHOWN, "  2 workers competed for the machine$"):
        assert re.search(f"^{line}", workers.said, re.MULTILINE), workers.said
    assert judged(workers.folder) == TESTS


@pytest.mark.parametrize(
    "options", [("-p", "no:xdist"), pytest.param(("-n", "0"), marks=pytest.mark.soak)], ids=" ".join
)
def test_without_workers_they_are_complete_too(suite, pytester, options):
    """With xdist, and without."""
    result = suite(SOURCE, *options, *REPORTS)
    result.assert_outcomes(passed=4, failed=2)
    assert "workers competed" not in result.stdout.str()
    for line in SHOWN:
        assert re.search(f"^{line}", result.stdout.str(), re.MULTILINE)
    assert judged(pytester.path) == TESTS


def test_workers_play_with_the_seed_of_their_controller(workers):
    """So that a replay needs one number."""
    [seed] = re.findall(r"findings \(seed (\d+)", workers.said)
    assert f"--isolation-replay=crowd:5:{seed}" in workers.said


def test_junit_shows_verdicts_and_findings(workers):
    """As properties of the test case, and as a failure with the evidence in its message."""
    xml = (workers.folder / "junit.xml").read_text()
    assert '<property name="isolation_body_p95" value="pass n=120 over=0 limit=0.5s"' in xml
    assert '<property name="isolation_memory_peak" value="pass value=100' in xml
    assert '<property name="isolation_findings" value="4"' in xml
    assert '<property name="isolation_confidence" value="4 proven"' in xml
    assert "Failed: OVER BUDGET  p95" in xml
    assert "Failed: LEAK  user-00 received the secret" in xml
