"""The parts of the conformance suite about memory and lifecycle find what they are for, and only that."""

import pytest

import pytest_isolation.conformance.test_lifecycle as lifecycle
import pytest_isolation.conformance.test_memory  # noqa: F401 - as those in conftest.py

SHOP = """
import asyncio, uuid
from contextlib import asynccontextmanager
from types import SimpleNamespace

FAULT = "{fault}"
kept = []

class Till:
    pass

class Tills:
    def __init__(self): self.free, self.limit = [Till() for _ in range(150)], 150
    def acquire(self): return self.free.pop()
    def release(self, till): self.free.append(till)

class Shop:
    agents = ("clerk",)

    def __init__(self):
        self.inboxes, self.tills = {{}}, Tills()
        self.pools = [self.tills]

    async def start(self):
        self.doors = asyncio.Semaphore(20)
        self.clock = asyncio.create_task(asyncio.sleep(3600))

    async def aclose(self):
        if FAULT != "a task goes on":
            self.clock.cancel()

    @asynccontextmanager
    async def request(self, user_id):
        async def agent(name):
            return SimpleNamespace(run=run)

        async def run(message):
            await asyncio.sleep(0)
            return f"{{user_id}} has said {{message}}"

        async def emit(kind, data):
            for inbox in self.inboxes.get(user_id, ()):
                inbox.put_nowait({{"kind": kind, **data}})

        @asynccontextmanager
        async def session():
            await self.doors.acquire()
            try:
                yield SimpleNamespace(ping=lambda: asyncio.sleep(0))
            except BaseException:
                if FAULT != "a door stays locked":
                    self.doors.release()
                raise
            self.doors.release()

        if FAULT == "requests stay":
            kept.append(bytes(70_000))
        till = self.tills.acquire()
        goods = bytes(1_000_000) if FAULT == "requests are large" else b""
        try:
            context = SimpleNamespace(user_id=user_id, request_id=uuid.uuid4().hex)
            yield SimpleNamespace(context=context, agent=agent, emit=emit, session=session, goods=goods)
        finally:
            if FAULT != "a till is not returned" or user_id.startswith("memory"):
                self.tills.release(till)

    @asynccontextmanager
    async def connect(self, user_id):
        inbox = asyncio.Queue()
        self.inboxes.setdefault(user_id, []).append(inbox)
        try:
            yield SimpleNamespace(receive=inbox.get, pending=inbox.qsize)
        finally:
            if FAULT != "who has gone hears on":
                self.inboxes[user_id].remove(inbox)

create = Shop
"""
FAULTS = {
    "requests stay": ("requests_leave_nothing", "GROWS  growth per 1000 runs *, limit 10 KB"),
    "requests are large": ("hundred_users_at_once", "OVER THE LIMIT  peak * MB, limit 65 MB"),
    "a task goes on": ("start_and_close", "*after aclose() these tasks went on: *Task pending*"),
    "a door stays locked": ("break_off and failed", "*TimeoutError*"),
    "who has gone hears on": ("gone_away", "*assert 1 == 0*"),
    "a till is not returned": ("stays_lent", "POOL  *Till*"),
}


@pytest.fixture
def conformance(pytester, suite, monkeypatch):
    """Runs a part of it against a shop with a fault."""
    monkeypatch.syspath_prepend(pytester.path)

    def run(fault, selected):
        if fault == "a door stays locked":
            monkeypatch.setattr(lifecycle, "_PATIENCE_S", 0.3)
        return suite(
            "",
            *("--pyargs", "pytest_isolation.conformance.test_memory", "pytest_isolation.conformance.test_lifecycle"),
            *("-k", selected, "--isolation-backend=shop:create"),
            f"--isolation-max-seconds={20 if fault == 'requests stay' else 0.3}",
            shop=SHOP.format(fault=fault),
        )

    return run


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(conformance, fault):
    """Each by the test that is for it."""
    selected, said = FAULTS[fault]
    result = conformance(fault, selected)
    result.assert_outcomes(failed=1, deselected=6)
    result.stdout.fnmatch_lines([said])


def test_a_backend_without_a_fault_passes(conformance):
    """All of it."""
    conformance("none", "test_").assert_outcomes(passed=7)
