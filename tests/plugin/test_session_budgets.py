"""Budgets in the ini file are judged over all spans of the session, and a missed one is a failed test."""

import json
import xml.etree.ElementTree as ET

import pytest

SPANS = """
    import time
    import pytest

    @pytest.mark.parametrize("number", range(20))
    def test_part(latency, number):
        for _ in range(10):
            with latency.span("agent.create"):
                {work}
"""


def ini(pytester, *lines):
    pytester.makeini(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nisolation_budgets =\n"
        + "\n".join(f"    {line}" for line in lines)
    )


def test_kept_budgets_are_shown(pytester):
    """In the table, by the name of the span."""
    ini(pytester, "agent.create p95 < 500ms, max < 5s")
    pytester.makepyfile(SPANS.format(work="pass"))
    result = pytester.runpytest_inprocess("--isolation-budget")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["isolation_budgets [[]agent.create[]]*200*p95 ≤ 500 ms*pass", "2 budgets: 2 within*"])


def test_a_missed_budget_is_a_failed_test_without_a_traceback(pytester):
    """The exit status says so, and the summary names it."""
    ini(pytester, "agent.create p95 < 0.001ms")
    pytester.makepyfile(SPANS.format(work="time.sleep(0.0005)"))
    result = pytester.runpytest_inprocess("--isolation-budget")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*agent.create p95 < 0.001ms*",
            "OVER BUDGET  span 'agent.create'  p95 = *, budget 1 µs",
            "  200 of 200 samples over budget (100 %; 5 % allowed); proven over*",
            "FAILED isolation_budgets::agent.create p95 < 0.001ms*",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_junit_and_the_report_see_it(pytester):
    """As a failed test, and as a result."""
    ini(pytester, "agent.create p95 < 0.001ms")
    pytester.makepyfile(SPANS.format(work="time.sleep(0.0005)"))
    pytester.runpytest_inprocess("--isolation-budget", "--junitxml=junit.xml", "--isolation-report=report.json")
    cases = ET.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    failed = [case for case in cases if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == ["agent.create p95 < 0.001ms"]
    results = json.loads((pytester.path / "report.json").read_text())["results"]
    assert [r["verdicts"][0]["outcome"] for r in results if r["nodeid"] == "isolation_budgets"] == ["fail"]


def test_spans_of_all_workers_count(pytester):
    """Each has seen a part of them."""
    ini(pytester, "agent.create p95 < 500ms")
    pytester.makepyfile(SPANS.format(work="pass"))
    result = pytester.runpytest_inprocess("--isolation-budget", "-n2")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["isolation_budgets [[]agent.create[]]*200*pass", "*2 workers competed for the machine)"]
    )


def test_a_span_that_nobody_entered_is_a_failure(pytester):
    """Nothing measured is never a pass."""
    ini(pytester, "agent.creat p95 < 500ms")
    pytester.makepyfile(SPANS.format(work="pass"))
    result = pytester.runpytest_inprocess("--isolation-budget")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*the span 'agent.creat' was never entered by any test of this session*"])


def test_without_ci_mode_they_are_not_judged(pytester):
    """A single test is run often while one works on it."""
    ini(pytester, "agent.create p95 < 0.001ms")
    pytester.makepyfile(SPANS.format(work="time.sleep(0.0005)"))
    assert pytester.runpytest_inprocess().ret == 0


def test_undecided_is_a_failure_where_it_is_asked_for(pytester):
    """Two hundred are too few for p99."""
    ini(pytester, "agent.create p99 < 500ms")
    pytester.makepyfile(SPANS.format(work="pass"))
    assert pytester.runpytest_inprocess("--isolation-budget").ret == 0
    result = pytester.runpytest_inprocess("--isolation-budget", "--isolation-undecided=fail")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*too few samples: 200, and p99 needs 620 or more"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("agent.create", "*'agent.create' says no more than a span; the form is isolation_budgets = *"),
        ("agent.create p95", "*'p95' in 'agent.create p95' is no budget*"),
        ("agent.create p95 < 10", "*'p95 < 10' in * is no budget*"),
        ("agent.create p0 < 10ms", "*'p0 < 10ms' in * is no budget*"),
        ("agent.create p95 < 0ms", "*'p95 < 0ms' in * is no budget*"),
        ("agent.create p95 > 10ms", "*is no budget*"),
        ("agent.create p95 < 10ms, p95 < 20ms", "*'agent.create' has two budgets on p95; keep one"),
    ],
)
def test_a_line_that_is_no_budget_is_refused_at_once(pytester, line, said):
    """Without CI mode too."""
    ini(pytester, line)
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_a_native_toml_list_works(pytester):
    """On pytest 9."""
    pytester.makepyprojecttoml(
        '[tool.pytest]\nasyncio_default_fixture_loop_scope = "function"\nisolation_budgets = ["agent.create p95 < 500ms"]\n'
    )
    pytester.makepyfile(SPANS.format(work="pass"))
    pytester.runpytest_inprocess("--isolation-budget").stdout.fnmatch_lines(["*[[]agent.create[]]*pass"])
