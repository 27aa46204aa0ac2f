"""Runs small test suites with the plugin, as a user's pytest would."""

import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

# pytester forgets what an inner run has imported; what every inner run needs is imported here, once. A library that is
# there twice does not know its own exceptions.
import anyio._backends._asyncio
import anyio._backends._trio  # noqa: F401
import httpcore  # noqa: F401 - httpx imports it when it first sends something
import httpx  # noqa: F401
import pytest

import pytest_isolation.conformance.test_budgets
import pytest_isolation.engine
import pytest_isolation.reports.json
import pytest_isolation.reports.junit
import pytest_isolation.reports.terminal
import pytest_isolation.stand_in  # noqa: F401
import reference_impl  # noqa: F401

ROOT = Path(__file__).parents[1]
# A worker is measured for coverage, and not the many processes that its tests start: that would double their time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_START", None)
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

# Without plugins that have no part in it; Hypothesis is imported anew, for a second, at the end of every inner run.
INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
addopts = -p no:cacheprovider -p no:benchmark -p no:hypothesispytest
"""


def pytest_collection_finish(session):
    """What is there by now stays; each full collection would look at all of it, and many tests ask for one."""
    if not any(item.path.is_relative_to(ROOT / "tests") for item in session.items):
        return  # `make demo` reads this file too, and what is frozen could not be looked at
    import hypothesis  # noqa: F401 - its plugin does so at the end, and then it asks who refers to what is frozen

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def frozen_afterwards():
    """What inner runs leave in pytest stays, too: some hundred objects of each."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def without_hypothesis(request, monkeypatch):
    """Its plugin imports it at the end of every inner run, for a second."""
    if "pytester" in request.fixturenames:
        request.getfixturevalue("pytester")  # first: it takes the variable away
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")


@pytest.fixture
def suite(pytester):
    """Writes a test file and runs it; hands back pytest's result."""
    pytester.makefile(".ini", pytest=INI)

    def run(source, *options, ini="", how="inprocess", **files):
        if ini:
            pytester.makefile(".ini", pytest=INI + textwrap.dedent(ini))
        pytester.makepyfile(test_it=textwrap.dedent(source), **files)
        runner = pytester.runpytest_inprocess if how == "inprocess" else pytester.runpytest_subprocess
        return runner(*options)

    return run


@pytest.fixture
def command():
    """Starts `isolation …` in a process of its own, and ends it in any case."""
    processes = []

    def start(*words):
        main = "import sys; from pytest_isolation.cli import main; main(sys.argv[1:])"
        process = subprocess.Popen(
            [sys.executable, "-c", main, *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
