"""Explores backends of the corpus without pytest around it."""

import subprocess
import sys

import pytest

from pytest_isolation.exploring import Explorer, Search
from pytest_isolation.judge import Extensions, Judge
from pytest_isolation.phases.exploration import Stagecraft
from pytest_isolation.phases.token import parse
from pytest_isolation.users.cast import Cast

SLOW = """
import socket, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    peer, _ = listener.accept()
    for line in peer.makefile("rb"):
        time.sleep(0.05)
        peer.sendall(line)
"""


@pytest.fixture(scope="session")
def slow_port():
    """Of a server in a process of its own, as a database is, which answers one after another, each after 50 ms."""
    with subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE) as server:
        yield int(server.stdout.readline())
        server.kill()


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
