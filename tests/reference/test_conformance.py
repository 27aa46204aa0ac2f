"""The conformance suite on every preset and on the naive backend, on SQLite and on PostgreSQL."""

import os
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


@pytest.mark.parametrize("database", DATABASES[:2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hundred_users_are_kept_apart(request, backend, database):
    """In data, and in events that come late."""
    output = conformance(request, backend, database, "-k", "(own_data_only or late_events) and 100-users")
    assert "2 scenarios played 212 times: 0 findings" in output


@pytest.mark.soak
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_whole_suite_passes(request, backend, database):
    """With its budgets, at 100 and at 200 users."""
    output = conformance(request, backend, database, "--isolation-budget")
    assert "16 passed" in output
    assert " over" not in output.rpartition("budgets:")[2].partition(";")[0]


@pytest.mark.soak
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_user_passes_it_too(request, backend, database):
    """Nobody else need be there."""
    output = conformance(request, backend, database, "--isolation-users=1", "-k", "test_isolation")
    assert "10 passed" in output
