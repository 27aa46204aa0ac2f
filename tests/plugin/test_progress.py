"""A long test says on a terminal how far it has got, and leaves nothing of that behind."""

import os
import pty
import subprocess
import sys

import pytest

LONG = """
    import pytest
    from time import sleep

    @pytest.mark.latency(p95_ms=30)
    def test_long():
        sleep(0.01)
"""


def on_a_terminal(pytester, *args: str) -> str:
    """What a terminal is sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args],
        cwd=pytester.path,
        stdout=theirs,
        stderr=subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the other end is closed
        pass
    process.wait()
    os.close(ours)
    return said.decode()


@pytest.fixture(autouse=True)
def long_test(pytester):
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(LONG)


def test_a_long_test_says_how_it_goes(pytester):
    """Behind the dots, and the cursor goes back."""
    said = on_a_terminal(pytester, "--isolation-budget")
    assert "p95 ≤ 30 ms: 0 of" in said
    assert said.count("\b") >= 20


def test_a_file_is_told_nothing(pytester):
    """A log would fill up with it."""
    assert "samples over\b" not in pytester.runpytest_inprocess("--isolation-budget").stdout.str()


@pytest.mark.soak
def test_a_long_list_of_tests_is_told_nothing(pytester):
    """With -v each test has a line of its own."""
    assert "\b" not in on_a_terminal(pytester, "-v", "--isolation-budget")
