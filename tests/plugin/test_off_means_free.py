"""A session without a marked test pays for nothing."""

import subprocess
import sys

IMPORTED = """
import sys
def pytest_unconfigure():
    ours = sorted(name for name in sys.modules if name.startswith("pytest_isolation"))
    heavy = [name for name in ("sqlalchemy", "pympler", "hypothesis", "uvicorn", "httpx", "aiosqlite", "jsonschema") if name in sys.modules]
    print()
    print("IMPORTED", *ours, *heavy)
"""


def run(pytester, source):
    pytester.makeconftest(IMPORTED)
    pytester.makepyfile(source)
    result = pytester.run(
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        "-p",
        "no:benchmark",
        "-s",
    )
    return next(line for line in result.outlines if "IMPORTED" in line).split("IMPORTED")[1].split()


def test_only_the_shell_is_imported(pytester):
    """The engine and its rooms stay on disk."""
    assert run(pytester, "def test(): pass") == [
        "pytest_isolation",
        "pytest_isolation.collected",
        "pytest_isolation.errors",
        "pytest_isolation.fixtures",
        "pytest_isolation.hookspecs",
        "pytest_isolation.plugin",
        "pytest_isolation.settings",
        "pytest_isolation.state",
    ]


def test_a_marked_test_imports_no_library_either(pytester):
    """Only anyio, which pytest brings along with its own plugin."""
    imported = run(pytester, "import pytest\n@pytest.mark.latency(p95_ms=500)\ndef test(): pass")
    assert all(name.startswith("pytest_isolation") for name in imported)
    assert "pytest_isolation.engine" in imported


def test_no_hook_of_ours_runs_around_unmarked_tests(pytester):
    """They are registered only when a marked test was collected."""
    pytester.makeconftest(
        """
        def pytest_runtest_call(item):
            print("PLAYING", item.config.pluginmanager.has_plugin("pytest_isolation.playing"))
        """
    )
    pytester.makepyfile("def test(): pass")
    pytester.makefile(".ini", pytest="[pytest]\nasyncio_default_fixture_loop_scope = function")
    result = pytester.runpytest_inprocess("-s", "-p", "no:hypothesispytest")
    result.stdout.fnmatch_lines(["*PLAYING False*"])


def test_the_plugin_can_be_switched_off(pytester):
    """-p no:pytest_isolation.plugin"""
    pytester.makepyfile("def test(): pass")
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:pytest_isolation.plugin", "--help"],
        cwd=pytester.path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--isolation-" not in process.stdout
