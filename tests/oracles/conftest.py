"""Evidence as the oracles read it, made by hand."""

import pytest

from pytest_isolation.users.cast import Cast, run_of
from pytest_isolation.users.transcript import Story


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


@pytest.fixture
def stage():
    return Stage()
