"""Runs small test suites with the plugin, as a user's pytest would."""

import gc
import importlib.metadata
import os
import subprocess
import sys
import textwrap
from functools import cached_property
from pathlib import Path

# pytester forgets what an inner run has imported; what every inner run needs is imported here, once. A library that is
# there twice does not know its own exceptions.
import _pytest.stepwise  # noqa: F401
import anyio._backends._asyncio
import anyio._backends._trio  # noqa: F401
import httpcore  # noqa: F401 - httpx imports it when it first sends something
import httpx  # noqa: F401
import pytest
import starlette.applications
import starlette.formparsers
import starlette.middleware.body_limit
import starlette.requests
import starlette.responses
import starlette.routing
import starlette.websockets  # noqa: F401
import uvicorn.lifespan.on
import uvicorn.protocols.http.auto
import uvicorn.protocols.http.h11_impl
import uvicorn.protocols.websockets.auto
import uvicorn.protocols.websockets.websockets_sansio_impl  # noqa: F401

import pytest_isolation.conformance.test_budgets
import pytest_isolation.engine
import pytest_isolation.exploring
import pytest_isolation.fresh
import pytest_isolation.from_code
import pytest_isolation.orders
import pytest_isolation.phases.shrink
import pytest_isolation.reports.json
import pytest_isolation.reports.junit
import pytest_isolation.reports.terminal
import pytest_isolation.stand_in
import pytest_isolation.targets.asgi
import pytest_isolation.targets.clients
import pytest_isolation.targets.http
import pytest_isolation.targets.intermediary
import pytest_isolation.targets.pools
import pytest_isolation.targets.serving
import pytest_isolation.targets.sqlalchemy
import pytest_isolation.targets.websocket
import pytest_isolation.unsupported
import pytest_isolation.watching  # noqa: F401
import reference_impl  # noqa: F401

ROOT = Path(__file__).parents[1]
# A worker is measured for coverage, and not the many processes that its tests start: that would double their time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_START", None)
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

# Many tests start processes, and each would compile this project, and pytest rewrite it, anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

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


class Installed:
    """A distribution, whose files are read once."""

    def __init__(self, distribution):
        self._distribution = distribution

    def __getattr__(self, name):
        return getattr(self._distribution, name)

    @cached_property
    def entry_points(self):
        return self._distribution.entry_points

    @cached_property
    def files(self):
        return self._distribution.files

    @cached_property
    def metadata(self):
        return self._distribution.metadata


INSTALLED = [Installed(distribution) for distribution in importlib.metadata.distributions()]


@pytest.fixture(autouse=True)
def cheap_inner_runs(request, monkeypatch):
    """Hypothesis is imported anew at the end of each, for a second; and what is installed is looked up by each."""
    if "pytester" in request.fixturenames:
        request.getfixturevalue("pytester")  # first: it takes the variable away
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
        whole = importlib.metadata.distributions
        monkeypatch.setattr(importlib.metadata, "distributions", lambda **of: whole(**of) if of else iter(INSTALLED))


@pytest.fixture(autouse=True)
def without_bytecode_of_their_own(request, monkeypatch):
    """A module that a test writes twice within a second, equally long, would be the first one still."""
    if "pytester" in request.fixturenames:
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        monkeypatch.setattr(sys, "dont_write_bytecode", True)


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
def several(suite):
    """Writes several test files and runs them at once, in this order: a run costs more than most of the tests in it.

    They are called test_00.py, test_01.py, … and, the last one, test_it.py.
    """

    def run(sources, *options, **more):
        *others, last = map(textwrap.dedent, sources)
        return suite(last, *options, **{f"test_{number:02}": source for number, source in enumerate(others)}, **more)

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
