"""Ctrl-C: what was measured is kept and reported, and nothing is left running."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

WITHOUT = ("-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:xdist")
SOURCE = """
import pytest, time
runs = open("runs", "w", buffering=1)
BODY
"""
BODIES = {
    "sync": "@pytest.mark.latency(p99_ms=500)\ndef test():\n    print(file=runs)\n    time.sleep(0.01)",
    "asyncio": "@pytest.mark.asyncio\n@pytest.mark.latency(p99_ms=500)\nasync def test():\n    import asyncio\n    print(file=runs)\n    await asyncio.sleep(0.01)",
    "trio": "@pytest.fixture\ndef anyio_backend(): return 'trio'\n@pytest.mark.anyio\n@pytest.mark.latency(p99_ms=500)\nasync def test():\n    import trio\n    print(file=runs)\n    await trio.sleep(0.01)",
    "paced": "@pytest.mark.asyncio\n@pytest.mark.latency(p95_ms=500, rate=50)\nasync def test():\n    import asyncio\n    print(file=runs)\n    await asyncio.sleep(0.01)",
}


def interrupted(folder, runs, *options):
    """What a session says that is interrupted after so many runs of a body."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *WITHOUT, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (folder / "runs").exists() or len((folder / "runs").read_text()) < runs:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    return output


@pytest.mark.parametrize("kind", ["sync", "asyncio", "paced", pytest.param("trio", marks=pytest.mark.soak)])
def test_an_interrupted_test_reports_what_it_measured(pytester, kind):
    """In the summary and in the JSON report."""
    pytester.makefile(".ini", pytest="[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(test_it=SOURCE.replace("BODY", BODIES[kind]))
    output = interrupted(pytester.path, 20, "--isolation-budget", "--isolation-report=r.json")
    assert "test_it.py::test: interrupted; what was measured until then counts" in output
    [result] = json.loads((pytester.path / "r.json").read_text())["results"]
    assert result["interrupted"] is True
    assert result["verdicts"][0]["samples"] > 5
    assert "never awaited" not in output


def test_the_budgets_of_an_interrupted_session_are_shown(pytester):
    """How far they had got, with the test that was under way; nothing fails by them."""
    budgets = "isolation_budgets =\n    query p95 < 5ms\n    never p95 < 5ms"
    pytester.makefile(".ini", pytest=f"[pytest]\n{budgets}")
    pytester.makepyfile(
        test_it="""
        import time

        def query(latency):
            with latency.span("query"):
                time.sleep(0.01)

        def test_first(latency):
            for _ in range(60):
                query(latency)

        def test_last(latency):
            with open("runs", "w", buffering=1) as runs:
                while True:
                    print(file=runs)
                    query(latency)
        """
    )
    output = interrupted(pytester.path, 20, "--isolation-budget", "--isolation-report=r.json")
    assert "isolation_budgets: interrupted; what was measured until then counts" in output
    assert "OVER BUDGET  span 'query'  p95 = " in output
    [result] = [one for one in json.loads((pytester.path / "r.json").read_text())["results"] if one["verdicts"]]
    assert (result["nodeid"], result["interrupted"]) == ("isolation_budgets", True)
    assert result["verdicts"][0]["samples"] > 75


def test_an_interrupted_crowd_leaves_no_task_behind(pytester):
    """Users are cancelled, and their clean-up runs."""
    pytester.makefile(".ini", pytest="[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(
        test_it="""
        import asyncio, pytest
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=5)
        async def test(user):
            user.observe(user.id)
            if user._label.startswith("user"):
                open("started", "w").close()
                try:
                    await asyncio.sleep(60)
                finally:
                    open(f"cleaned-{user.index}", "w").close()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *WITHOUT], cwd=pytester.path, stdout=subprocess.PIPE, text=True
    )
    while not (pytester.path / "started").exists():
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert len(list(pytester.path.glob("cleaned-*"))) == 5
    assert "Task was destroyed" not in output


def test_what_was_found_is_shown(pytester):
    """Though no test fails by it any more: a leak that is proven stays one."""
    pytester.makepyfile(
        test_it="""
        import os, signal, pytest

        last = None

        @pytest.mark.isolation(users=3)
        def test(user):
            global last
            user.observe(last)
            last = user.secret("note")
            if user._label == "solo-03":
                os.kill(os.getpid(), signal.SIGINT)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == 2
    result.stdout.fnmatch_lines(
        [
            "LEAK  solo-03 received the secret 'note' of solo-02",
            "  phase     solo, interrupted, seed *",
            "  replay    pytest test_it.py::test *",
            "test_it.py::test: interrupted; what was measured until then counts",
        ]
    )
