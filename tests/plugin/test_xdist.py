"""Everything that workers prove reaches the controller."""

import json

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


@pytest.mark.parametrize(
    "options", [("-n", "2"), ("-p", "no:xdist"), pytest.param(("-n", "0"), marks=pytest.mark.soak)], ids=" ".join
)
def test_the_summary_and_the_report_are_complete(suite, pytester, options):
    """With workers, without them, without xdist."""
    result = suite(
        SOURCE,
        *options,
        "--isolation-budget",
        "--isolation-seed=5",
        "--isolation-report=out/report.json",
        how="subprocess",
    )
    result.assert_outcomes(passed=4, failed=2)
    assert ("  2 workers competed for the machine" in result.outlines) == (options == ("-n", "2"))
    result.stdout.fnmatch_lines_random(
        [
            "test_fast *pass",
            "test_slow *fail",
            "test_held  peak *pass",
            "2 budgets: 1 within, 1 over; 1 memory limit: 1 within; 2 scenarios played 29 times: 4 findings (seed 5*",
        ]
    )
    report = json.loads((pytester.path / "out" / "report.json").read_text())
    assert sorted(r["nodeid"].rpartition("::")[2] for r in report["results"]) == [
        "test_apart",
        "test_fast",
        "test_held",
        "test_leak",
        "test_slow",
    ]


def test_workers_play_with_the_seed_of_their_controller(suite):
    """So that a replay needs one number."""
    result = suite(SOURCE, "-n", "2", how="subprocess")
    summary = next(line for line in result.outlines if "findings (seed" in line)
    seed = summary.split("seed ")[1].split(",")[0].rstrip(")")
    result.stdout.fnmatch_lines([f"*--isolation-replay=crowd:5:{seed}"])


def test_junit_shows_verdicts_and_findings(suite, pytester):
    """As properties of the test case, and as a failure with the evidence in its message."""
    suite(SOURCE, "-n", "2", "--junitxml=junit.xml", how="subprocess")
    xml = (pytester.path / "junit.xml").read_text()
    assert '<property name="isolation_body_p95" value="pass n=120 over=0 limit=0.5s"' in xml
    assert '<property name="isolation_memory_peak" value="pass value=100' in xml
    assert '<property name="isolation_findings" value="4"' in xml
    assert '<property name="isolation_confidence" value="4 proven"' in xml
    assert "Failed: OVER BUDGET  p95" in xml
    assert "Failed: LEAK  user-00 received the secret" in xml
