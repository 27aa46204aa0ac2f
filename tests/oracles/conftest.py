"""Evidence as the oracles read it, made by hand."""

import os
import re

# pytester forgets what an inner run has imported, and these do not bear being imported twice.
import asyncpg  # noqa: F401
import psycopg
import psycopg_pool  # noqa: F401
import pytest
import redis.asyncio  # noqa: F401
import servers

from pytest_isolation.users.cast import Cast, run_of
from pytest_isolation.users.story import Story


class Stage:
    """A cast whose users see what a test says."""

    def __init__(self):
        self.cast = Cast(1, "test", 0)
        self.users = self.cast.users(3)

    def evidence(self, *runs):
        return self.cast.evidence("crowd of 3 users", runs or [self.run(user) for user in self.users], "crowd:3:1")

    def run(self, user, error=None, ended=True, seconds=0.1):
        return run_of(user, error, ended, seconds)

    def story(self, see):
        solos = []
        for user in self.cast.users(2, "solo"):
            see(user)
            solos.append(self.cast.evidence("solo", [self.run(user)]))
        return Story(solos)


@pytest.fixture(scope="module")
def postgres():
    """A real server, with a role to take."""
    with servers.postgres() as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS visitor")
            connection.execute("CREATE ROLE visitor")
        yield server.url


@pytest.fixture(scope="module")
def valkey():
    """A real server."""
    with servers.valkey() as server:
        yield server.url


@pytest.fixture
def impatient(monkeypatch):
    """What never goes is not waited for as long as users would: for tests in which something is found."""
    monkeypatch.setattr("pytest_isolation.phases.surroundings._CROWD_S", 0.1)


@pytest.fixture
def stage():
    return Stage()


RUNS = 1000
# Each play has five users who are alone, a crowd of three at least, and one alone.
TAKES = -(-RUNS // 9)
TAKEN = f"""
    import pytest
    @pytest.fixture(autouse=True)
    def take(request): return request.param
    def pytest_generate_tests(metafunc): metafunc.parametrize("take", range({TAKES}), indirect=True)
"""


class Twin:
    """How often a correct twin is played: once, or in the soak until its scenario has run a thousand times."""

    def __init__(self, takes):
        self.takes = takes

    def is_silent(self, result, tests=1):
        """Nothing was found, however often it was played; in so many tests."""
        outcomes = result.parseoutcomes()
        assert [outcomes.get(name) for name in ("passed", "failed", "errors")] == [tests * self.takes, None, None]
        if self.takes > 1:
            [played] = re.findall(r"played ([\d,]+) times: 0 findings", result.stdout.str())
            assert int(played.replace(",", "")) >= tests * RUNS


@pytest.fixture(params=["once", pytest.param("a thousand times", marks=pytest.mark.soak)])
def twin(request, pytester, cheap_inner_runs, monkeypatch):
    """Judges the play of a correct twin; a thousand times in one loop, for a lock or a queue of a module is of one."""
    if request.param == "once":
        return Twin(1)
    pytester.makeconftest(TAKEN)
    loops = " ".join(f"-o asyncio_default_{what}_loop_scope=module" for what in ("test", "fixture"))
    monkeypatch.setenv("PYTEST_ADDOPTS", f"{os.environ.get('PYTEST_ADDOPTS', '')} {loops}")
    return Twin(TAKES)


@pytest.fixture
def tells_apart(several, twin):
    """Plays a fault and its correct twin: one is found, with this line, and the other is silent, however often."""

    def play(line, faulty, correct):
        if twin.takes > 1:
            twin.is_silent(several([correct]))
            return
        result = several([faulty, correct])
        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines([line])

    return play
