"""The conformance suite on every preset and on the naive backend, on SQLite and on PostgreSQL."""

import os
import re
import subprocess
import sys

import pytest

from reference_impl.settings import PRESETS

BACKENDS = {
    **{preset: ("reference_impl:create_backend", preset) for preset in PRESETS},
    "naive": ("reference_impl.naive:create_backend", "balanced"),
}
DATABASES = ["sqlite", "postgresql+asyncpg", "postgresql+psycopg"]


def conformance(request, backend, database, *options):
    """Run the suite as a user does; its output."""
    target, preset = BACKENDS[backend]
    environment = {**os.environ, "REFERENCE_PRESET": preset}
    if database != "sqlite":
        url = request.getfixturevalue("postgres_url")
        environment["REFERENCE_DATABASE_URL"] = url.replace("postgresql", database)
    command = [sys.executable, "-m", "pytest", "--pyargs", "pytest_isolation.conformance", "-q", *options]
    command += [f"--isolation-backend={target}", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


QUICK = [("balanced", "sqlite"), ("naive", "postgresql+asyncpg")]
ALL = [(backend, database) for backend in BACKENDS for database in DATABASES]


@pytest.mark.parametrize(
    ("backend", "database"), [pytest.param(*one, marks=() if one in QUICK else pytest.mark.soak) for one in ALL]
)
def test_a_hundred_users_are_kept_apart(request, backend, database):
    """In data, and in events that come late."""
    output = conformance(request, backend, database, "-k", "(own_data_only or late_events) and 100-users")
    assert re.search(r"2 scenarios played \d{3} times: 0 findings", output)


@pytest.mark.soak
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_whole_suite_passes(request, backend, database):
    """With its budgets, at 100 and at 200 users."""
    output = conformance(request, backend, database, "--isolation-budget")
    lends = backend != "naive"  # which names no pools that could be watched
    assert ("23 passed" if lends else "22 passed, 1 skipped") in output
    assert "2 memory limits: 2 within" in output
    assert " over" not in output.rpartition("budgets:")[2].partition(";")[0]


@pytest.mark.soak
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_user_passes_it_too(request, backend, database):
    """Nobody else need be there."""
    output = conformance(request, backend, database, "--isolation-users=1", "-k", "test_isolation")
    assert "10 passed" in output
