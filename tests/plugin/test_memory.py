"""The marker `memory`: what a test holds is judged under every async plugin, and said to people and to machines."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from importlib.resources import files

import jsonschema
import pympler.asizeof  # noqa: F401 - pytester forgets what an inner run has imported
import pytest

HEAD = """
import anyio, pytest
kept = []
async def fetch(): pass
class Note:
    def __init__(self, text): self.text = text
"""


@pytest.fixture
def judged(suite, pytester):
    """Runs a suite; hands back pytest's result and what the report says of each test."""

    def run(source, *options, **how):
        result = suite(HEAD + textwrap.dedent(source), "--isolation-report=r.json", *options, **how)
        report = json.loads((pytester.path / "r.json").read_text())
        schema = json.loads((files("pytest_isolation.reports") / "schema" / "report-1.json").read_text())
        jsonschema.validate(report, schema)
        return result, {r["nodeid"].rpartition("::")[2]: r["memory"] for r in report["results"]}

    return run


LEAK_AND_TWIN = """
@pytest.mark.memory(growth_kb=10)
def test_leak(): kept.append(Note("x" * 70_000))
@pytest.mark.memory(growth_kb=10)
def test_twin(): Note("x")
"""


def test_a_leak_fails_with_the_line_that_keeps_it(judged):
    """What was seen, why it matters, what to do; its twin, which keeps nothing, passes."""
    result, memory = judged(LEAK_AND_TWIN, "--isolation-max-seconds=20")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "GROWS  growth per 1000 runs * KB, limit 10 KB",
            "  it grew, and still did after 4 times as many rounds: the last 16 rounds of * (tau = 1.00, *",
            "  grew by * KB per 1000 runs, * blocks in all: test_it.py:*: def test_leak(): kept.append(Note(*",
            "  what stays of every run is never given back*Let go of it when the run ends, or bound it*growth_kb=*",
        ]
    )
    [leak], [twin] = memory["test_leak"], memory["test_twin"]
    assert (leak["what"], leak["outcome"], leak["limit_bytes"], leak["extended"]) == ("growth", "fail", 10240, 4)
    assert leak["lines"][0]["path"] == "test_it.py"
    assert (twin["outcome"] in ("pass", "undecided"), twin["extended"], twin["lines"]) == (True, 1, [])


def test_what_pytest_keeps_of_a_body_is_not_its_own(judged):
    """Every record that is logged, and every warning; those of the last round and of the first run are there."""
    result, memory = judged(
        """
        import logging, warnings
        @pytest.mark.memory(growth_kb=10)
        def test(caplog):
            logging.getLogger("shop").warning("a request came")
            warnings.warn("not for long", DeprecationWarning)
            assert caplog.messages[-1] == "a request came"
        """,
        "--isolation-max-seconds=1",
    )
    result.assert_outcomes(passed=1, warnings=1)
    [verdict] = memory["test"]
    assert (verdict["extended"], verdict["lines"]) == (1, [])


def test_the_peak_is_judged(judged):
    """Above what was there at the start, whatever is given back."""
    result, memory = judged(
        """
        @pytest.mark.memory(peak_mb=2)
        def test_over(): bytes(3_000_000)
        @pytest.mark.memory(peak_mb=4)
        def test_within(): bytes(3_000_000)
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["OVER THE LIMIT  peak 2.86 MB, limit 2 MB", "*bound how much is under way*peak_mb=3.4"]
    )
    assert memory["test_within"][0]["outcome"] == "pass"


def test_an_object_is_weighed_without_what_is_shared(judged):
    """By the fixture of the same name, in the first runs."""
    result, memory = judged(
        """
        config = ["x" * 100_000]
        class Request:
            def __init__(self): self.config, self.note = config, "n" * 1000
        @pytest.mark.memory(per_object_kb=2)
        def test_within(memory): assert memory.weigh(Request(), shared=[config]) < 2048
        @pytest.mark.memory(per_object_kb=2)
        def test_over(memory): memory.weigh(Request())
        def test_without_a_marker(memory): assert 1000 < memory.weigh(Request(), shared=[config]) < 2048
        """
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["OVER THE LIMIT  heaviest object * KB, limit 2 KB", "*memory.weigh(request, shared=*"])
    assert [v["outcome"] for v in (*memory["test_within"], *memory["test_over"])] == ["pass", "fail"]


NOTHING = {
    "a coroutine is dropped": ("def test(): fetch()", "coroutine 'fetch' was never awaited"),
    "a coroutine is returned": ("def test(): return fetch()", "the body returned 'fetch' without awaiting it"),
    "nobody takes the test": ("async def test(): pass", "async def functions are not natively supported"),
    "nothing is weighed": ("def test(memory): pass", "per_object_kb judges what is weighed, and nothing was"),
    "shared is no collection": ("def test(memory): memory.weigh(3, shared=3)", "shared=3 is no collection"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_measured_is_no_pass(suite, case):
    body, said = NOTHING[case]
    result = suite(f"{HEAD}\n@pytest.mark.memory(peak_mb=10, per_object_kb=5)\n{body}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{said}*"])


def test_without_pympler_it_says_which_extra_is_needed(suite, pytester):
    pytester.makeconftest("import sys; sys.modules['pympler.asizeof'] = None")
    result = suite("def test(memory): memory.weigh(3)")
    result.stdout.fnmatch_lines(["*pip install 'pytest-isolation[[]memory[]]'*"])


def test_a_body_that_cannot_be_repeated_says_so(suite):
    result = suite(
        f"{HEAD}\n@pytest.mark.memory(peak_mb=10)\ndef test():\n    kept.append(1)\n    assert len(kept) < 3"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*2 runs of the body ended well before this one failed. @memory repeats*"])


def test_a_slow_body_is_undecided_and_says_so(judged):
    """Counted and printed; in CI mode it fails if doubt is to fail."""
    source = "@pytest.mark.memory(growth_kb=10)\ndef test():\n    import time\n    time.sleep(0.02)"
    result, memory = judged(source, "--isolation-max-seconds=0.2")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "test_it.py::test: UNDECIDED  growth per 1000 runs *",
            "*--isolation-max-seconds=60",
            "1 memory limit: 1 undecided (*",
        ]
    )
    assert memory["test"][0]["outcome"] == "undecided"
    result, _ = judged(source, "--isolation-max-seconds=0.2", "--isolation-budget", "--isolation-undecided=fail")
    result.assert_outcomes(failed=1)


MODES = {
    "pytest-asyncio strict": ("@pytest.mark.asyncio", "", ("-p", "no:anyio"), 1),
    "pytest-asyncio auto": ("", "asyncio_mode = auto", (), 1),
    "anyio": ("@pytest.mark.anyio", "", ("-p", "no:asyncio"), 2),
}


@pytest.mark.parametrize("mode", MODES)
def test_async_bodies_are_judged(judged, mode):
    """On asyncio and on trio, each run in a task and a Context of its own; also what they do not wait for."""
    decorator, ini, options, loops = MODES[mode]
    source = f"""
from contextvars import ContextVar
seen = ContextVar("seen", default=None)
{decorator}
@pytest.mark.memory(growth_kb=10, peak_mb=2)
async def test_within():
    assert seen.get() is None
    seen.set(1)
    await anyio.sleep(0)
{decorator}
@pytest.mark.memory(peak_mb=2)
async def test_over():
    await anyio.sleep(0)
    bytes(3_000_000)
"""
    result, memory = judged(source, "--isolation-max-seconds=0.3", *options, ini=ini)
    result.assert_outcomes(passed=loops, failed=loops)
    assert len(memory) == 2 * loops


def test_a_table_and_junit_show_every_limit(judged, pytester):
    """In CI mode; workers of xdist send theirs (test_xdist.py)."""
    source = "@pytest.mark.memory(peak_mb=2)\ndef test(): bytes(1_000_000)\n"
    result, memory = judged(source, "--isolation-budget", "--junitxml=junit.xml")
    result.stdout.fnmatch_lines(
        [
            "test  memory  runs  tau  measured  limit   verdict",
            "test  peak *0.95? MB  ≤ 2 MB  pass",
            "1 memory limit: 1 within (seed *",
        ]
    )
    assert memory["test"][0]["runs"] == 3
    xml = (pytester.path / "junit.xml").read_text()
    assert '<property name="isolation_memory_peak" value="pass value=100' in xml
    assert 'limit=2097152B runs=3"' in xml


def test_an_interrupted_test_reports_what_it_measured(pytester):
    """In the summary and in the JSON report."""
    pytester.makefile(".ini", pytest="[pytest]")
    body = "@pytest.mark.memory(growth_kb=10)\ndef test():\n    open('started', 'w').close()\n    time.sleep(0.001)"
    pytester.makepyfile(test_it=f"import pytest, time\n{body}")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--isolation-report=r.json"]
    command += ["--isolation-max-seconds=60"]
    process = subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, text=True)
    while not (pytester.path / "started").exists():
        time.sleep(0.05)
    time.sleep(0.7)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "test_it.py::test: interrupted; what was measured until then counts" in output
    [result] = json.loads((pytester.path / "r.json").read_text())["results"]
    [verdict] = result["memory"]
    assert (verdict["outcome"], verdict["runs"] > 5) == ("undecided", True)
    assert verdict["reason"].startswith("stopped after")


MISTAKES = {
    "growth=10": "memory(growth=…): there is no such keyword; did you mean 'growth_kb'?",
    "peak_kb=10": "did you mean 'peak_mb'?",
    "spam=1": "memory(spam=…): there is no such keyword; did you mean 'peak_mb'? It knows growth_kb, peak_mb, per_object_kb",
    "growth_kb=0": "memory(growth_kb=0): it takes a number > 0 of kilobytes per 1000 runs, as in growth_kb=10",
    "peak_mb=-1": "it takes a number > 0 of megabytes",
    "per_object_kb='5'": "it takes a number > 0 of kilobytes",
    "growth_kb=True": "it takes a number > 0",
    "growth_kb=float('inf')": "it takes a number > 0",
    "10": "memory(10) does not say what is judged: memory(growth_kb=10)",
    "": "memory() asks for nothing: say what is allowed, as in memory(growth_kb=10)",
}
BESIDE = {
    "@pytest.mark.latency(p95_ms=5)\ndef test_one(): pass": "memory(…) and latency(…) cannot be judged in the same runs",
    "@pytest.mark.isolation\ndef test_one(user): pass": "memory(…) and isolation(…) cannot be judged in the same runs",
    "def test_one(user): pass": "in a test that takes `user`: users keep what they saw",
    "def test_one(users): pass": "in a test that takes `users`",
    "def test_one(latency): pass": "nothing can be timed beside it, by a budget of the session either",
    "def test_one(isolation): pass": "in a test that takes `isolation`",
    "import unittest\nclass T(unittest.TestCase):\n @pytest.mark.memory(peak_mb=1)\n def test_one(self): pass": "unittest runs",
}


def assert_refused(result, message):
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = " ".join("\n".join(result.errlines + result.outlines).split())
    assert "test_one: " in text
    assert message in text


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_wrong_marker_is_refused(suite, arguments):
    """By name and value, with the nearest right spelling."""
    assert_refused(suite(f"import pytest\n@pytest.mark.memory({arguments})\ndef test_one(): pass"), MISTAKES[arguments])


@pytest.mark.parametrize("source", BESIDE)
def test_what_cannot_be_judged_with_it_is_refused(suite, source):
    """It says why, and what to do."""
    marker = "" if "unittest" in source else "@pytest.mark.memory(peak_mb=1)\n"
    assert_refused(suite(f"import pytest\n{marker}{source}"), BESIDE[source])


def test_a_user_of_the_suites_own_may_be_there(suite):
    """It keeps nothing."""
    source = (
        "@pytest.fixture\ndef user(): return 3\n@pytest.mark.memory(peak_mb=1)\ndef test_one(user): assert user == 3"
    )
    suite(f"import pytest\n{source}").assert_outcomes(passed=1)


def test_the_closest_marker_wins(judged):
    """For each keyword."""
    _, memory = judged(
        "pytestmark = pytest.mark.memory(peak_mb=2, per_object_kb=3)\n"
        "@pytest.mark.memory(peak_mb=4)\ndef test(memory): memory.weigh(1)"
    )
    assert [verdict["limit_bytes"] for verdict in memory["test"]] == [4 * 1024**2, 3 * 1024]
