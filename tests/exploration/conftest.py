"""Explores backends of the corpus without pytest around it."""

import pytest

from pytest_isolation.exploring import Explorer, Search
from pytest_isolation.judge import Extensions, Judge
from pytest_isolation.phases.exploration import Stagecraft
from pytest_isolation.phases.token import parse
from pytest_isolation.users.cast import Cast


@pytest.fixture
def explore():
    """Explores a case; gives the findings, and what was done."""

    def run(case, replay=None, seed=42, **options):
        judge = Judge(Extensions())
        options = {"seconds": 60.0, **options}

        async def scenario(user, backend):
            await case.scenario(backend, user)

        search = Search(Stagecraft(case.open, scenario, options.pop("inline_threads", False)), **options)
        explorer = Explorer(search, Cast(seed, "test"), judge, seed, require=lambda _: None)
        if replay is None:
            explorer.explore()
        else:
            explorer.replay(parse(replay))
        return judge.findings, explorer.done

    return run
