"""Runs small test suites with the plugin, as a user's pytest would."""

import textwrap

# pytester forgets what an inner run has imported; what every inner run needs is imported here, once.
import anyio._backends._asyncio
import anyio._backends._trio  # noqa: F401
import pytest

import pytest_isolation.conformance.test_budgets
import pytest_isolation.engine
import pytest_isolation.reports.json
import pytest_isolation.reports.junit
import pytest_isolation.reports.terminal
import pytest_isolation.stand_in  # noqa: F401
import reference_impl  # noqa: F401

# Without plugins that have no part in it; Hypothesis is imported anew, for a second, at the end of every inner run.
INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
addopts = -p no:cacheprovider -p no:benchmark -p no:hypothesispytest
"""


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
