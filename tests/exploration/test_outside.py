"""Time that is virtual does not run ahead of what comes from outside: no timer fires earlier than on a real clock."""

import asyncio
import sys
from contextlib import asynccontextmanager

import pytest
from exploration.corpus import Case

from pytest_isolation.phases import loop as controlled


class Asking:
    """Users ask over a connection of their own, and have ten seconds."""

    port = 0

    async def handle(self, user):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(10):
                writer.write(user.secret().encode() + b"\n")
                return (await reader.readline()).decode()
        finally:
            writer.close()


def test_an_answer_that_is_slow_for_real_is_waited_for(explore, slow_port):
    """Longer than time would need to jump to the end of the timeout."""
    Asking.port = slow_port
    findings, done = explore(Case("Asking", Asking), users=2, seconds=1, random_runs=0)
    assert findings == []
    assert "not fully replayable" in done.notes[-1]


def test_a_child_process_is_waited_for(explore):
    """It takes its time, which is no virtual one."""

    class Child:
        async def handle(self, user):
            async with asyncio.timeout(30):
                child = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(0.1)")
                await child.wait()
            return user.secret()

    findings, _ = explore(Case("Child", Child), users=2, seconds=0.5, random_runs=0)
    assert findings == []


def beside_a_listener(port, backend):
    """A backend that listens on a connection all the time, for whatever may come."""

    @asynccontextmanager
    async def opened():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        task = asyncio.create_task(reader.readline())
        try:
            yield backend()
        finally:
            task.cancel()
            writer.close()

    return opened


@pytest.fixture
def waited(monkeypatch):
    """For how long sockets were listened to, each time, in seconds."""
    seen, poll = [], controlled._Selector._poll

    def noted(self, timeout):
        seen.append(timeout)
        return poll(self, timeout)

    monkeypatch.setattr(controlled._Selector, "_poll", noted)
    monkeypatch.setattr(controlled, "_LONG_GRACE_S", 0.02)
    return seen


def test_whoever_listens_in_the_background_holds_nobody_up(explore, slow_port, waited):
    """It always waits; what users wait for are timers."""

    class Sleeping:
        async def handle(self, user):
            await asyncio.sleep(3600)
            return user.secret()

    findings, _ = explore(Case("Sleeping", beside_a_listener(slow_port, Sleeping)), users=2, seconds=1, random_runs=0)
    assert findings == []
    assert 0 < max(waited) <= 0.02


def test_a_deadlock_is_one_at_once_though_connections_are_open(explore, slow_port, waited):
    """No socket can give a lock back."""

    class Locked:
        def __init__(self):
            self.lock = asyncio.Lock()

        async def handle(self, user):
            await self.lock.acquire()
            await asyncio.sleep(0.001)
            self.lock.release()
            return user.secret()

    [finding, *_], _ = explore(Case("Locked", beside_a_listener(slow_port, Locked)), users=2, seconds=5)
    assert finding.kind == "starved"
    assert 0 < max(waited) <= 0.02
