"""A request is opened and closed as one."""

import asyncio
import contextlib
import dataclasses
import gc
import tracemalloc
from contextlib import asynccontextmanager

import pytest
from pympler import asizeof

from reference_impl import ReferenceBackend, create_backend
from reference_impl.agents import Agent
from reference_impl.factory import AgentTimeout
from reference_impl.naive import NaiveBackend
from reference_impl.settings import PRESETS, Settings

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def running(**settings):
    backend = ReferenceBackend(Settings(**settings)) if settings else create_backend()
    await backend.start()
    try:
        yield backend
    finally:
        await backend.aclose()


async def test_an_agent_answers_with_what_its_user_has_said():
    """Across requests, and never with what others said."""
    async with running() as backend:
        for user, text in (("alice", "one"), ("bob", "two"), ("alice", "three")):
            async with backend.request(user) as request:
                answer = await (await request.agent("chat")).run(text)
        assert answer == "alice has said: one; three"


async def test_its_events_arrive_in_order():
    """From start to completion."""
    async with running() as backend, backend.connect("alice") as inbox:
        async with backend.request("alice") as request:
            await (await request.agent("chat")).run("hi")
        events = [await inbox.receive() for _ in range(inbox.pending())]
    assert [event["kind"] for event in events] == [
        "agent_started",
        "agent_thinking",
        "tool_executing",
        "tool_completed",
        "agent_completed",
    ]
    assert [event["sequence"] for event in events] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("how", ["error", "cancellation"])
async def test_the_emitter_is_returned_whatever_happens(how):
    """By the request that failed, and by the one that was cancelled."""
    async with running() as backend:

        async def use():
            async with backend.request("alice"):
                if how == "error":
                    raise ZeroDivisionError
                await asyncio.sleep(60)

        task = asyncio.create_task(use())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert backend.pool.figures.in_use == 0


async def test_a_request_that_has_ended_does_nothing_any_more():
    """A late task holds on to its scope, its session or its agent."""
    async with running() as backend:
        async with backend.request("alice") as request:
            session, agent = request.session(), await request.agent("chat")
            await session.save("note")
        assert backend.database.pool.checkedout() == 0
        for late in (
            lambda: request.emit("agent_started", {}),
            lambda: request.agent("chat"),
            lambda: agent.run("late"),
        ):
            with pytest.raises(RuntimeError, match="is not open"):
                await late()
        with pytest.raises(RuntimeError, match="is not open"):
            request.session()
        with pytest.raises(RuntimeError, match="has been closed"):
            await session.load()


async def test_a_backend_can_be_given_a_database(tmp_path):
    """Any URL of SQLAlchemy with an async driver."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'kept.db'}"
    for expected in (["one"], ["one", "one"]):
        backend = ReferenceBackend(Settings(database_url=url))
        await backend.start()
        async with backend.request("alice") as request, request.session() as session:
            await session.save("one")
            assert list(await session.load()) == expected
        await backend.aclose()


class Counting(Agent):
    """Counts how many run at once."""

    running = most = 0

    async def answer(self, message):
        type(self).running += 1
        type(self).most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        type(self).running -= 1
        return message


@pytest.fixture
def counting():
    class Fresh(Counting):
        pass

    return Fresh


async def run_many(backend, users, **ids):
    async def one(user):
        async with backend.request(user, **ids) as request:
            return await (await request.agent("counting")).run("hi")

    await asyncio.gather(*map(one, users))


async def test_only_so_many_agents_of_one_user_run_at_once(counting):
    """The others wait for their turn."""
    async with running(agents_per_user=3) as backend:
        backend.registry.register("counting", counting)
        await run_many(backend, ["alice"] * 20)
    assert counting.most == 3


async def test_one_users_limit_is_nobody_elses(counting):
    """Ten users with one each run together."""
    async with running(agents_per_user=1) as backend:
        backend.registry.register("counting", counting)
        await run_many(backend, [f"user-{n}" for n in range(10)])
    assert counting.most == 10


async def test_one_conversation_is_answered_one_message_after_another(counting):
    """Two tabs of alice in one thread; a thread of the same name of bob is another."""
    async with running() as backend:
        backend.registry.register("counting", counting)
        await run_many(backend, ["alice"] * 5, thread_id="t")
        assert counting.most == 1
        await run_many(backend, ["alice", "bob"], thread_id="t")
    assert counting.most == 2


async def test_an_agent_that_takes_too_long_is_stopped_and_its_permit_returned():
    """Its user can go on."""

    class Stuck(Agent):
        async def answer(self, message):
            await asyncio.sleep(60)

    async with running(agents_per_user=1, agent_timeout_s=0.01) as backend:
        backend.registry.register("stuck", Stuck)
        for _ in range(2):
            async with backend.connect("alice") as inbox, backend.request("alice") as request:
                with pytest.raises(AgentTimeout, match=r"Stuck of alice did not end within 0.01 s"):
                    await (await request.agent("stuck")).run("hi")
                assert (await inbox.receive())["error"] == "AgentTimeout"


async def test_a_timeout_inside_an_agent_is_the_agents_own():
    """It is not taken for ours."""

    class Impatient(Agent):
        async def answer(self, message):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)

    async with running() as backend:
        backend.registry.register("impatient", Impatient)
        async with backend.request("alice") as request:
            with pytest.raises(TimeoutError) as caught:
                await (await request.agent("impatient")).run("hi")
    assert not isinstance(caught.value, AgentTimeout)


async def test_a_request_is_opened_once():
    """A second time would lend it a second emitter."""
    async with running() as backend, backend.request("alice") as request:
        with pytest.raises(RuntimeError, match="is open already"):
            await request.__aenter__()


async def test_a_request_leaves_nothing_for_the_garbage_collector():
    """Everything goes with the last reference, without a pause for anybody."""
    async with running() as backend:

        async def serve():
            async with backend.request("alice") as request:
                await request.emit("agent_thinking", {"about": "x"})
                await request.agent("chat")

        await serve()
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                await serve()
            assert gc.collect() == 0
        finally:
            gc.enable()


async def test_an_open_request_is_small():
    """With its lease, its agent and a listener: the specification allows 5 KB."""
    async with running(emitters_ready=200) as backend, contextlib.AsyncExitStack() as stack:
        for name in ("warm", "up"):
            await stack.enter_async_context(backend.request(name))
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for n in range(100):
                await stack.enter_async_context(backend.connect(f"user-{n}"))
                request = await stack.enter_async_context(backend.request(f"user-{n}"))
                await request.emit("agent_thinking", {"about": "x"})
            held = (tracemalloc.get_traced_memory()[0] - before) / 100
        finally:
            tracemalloc.stop()
    assert held < 5000


async def test_what_a_request_holds_of_its_own_is_small():
    """As pympler sees it, without what all requests share."""
    async with running() as backend, backend.request("alice", thread_id="t") as request:
        await request.emit("agent_thinking", {"about": "x"})
        shared = asizeof.asizeof(request._factory)
        assert asizeof.asizeof(request) - shared < 5000
        assert asizeof.asizeof(request.context) < 1000


@pytest.mark.parametrize("preset", sorted(PRESETS))
async def test_every_preset_serves(preset):
    """With each optimisation, and without any."""
    async with running(**{f.name: getattr(PRESETS[preset], f.name) for f in dataclasses.fields(Settings)}) as backend:
        async with backend.connect("alice") as inbox, backend.request("alice") as request:
            assert await (await request.agent("chat")).run("hi") == "alice has said: hi"
            assert inbox.pending() == 5
        assert backend.pool.figures.in_use == 0


async def test_the_naive_backend_serves_too():
    """It is slower, not wrong."""
    backend = NaiveBackend(Settings())
    await backend.start()
    try:
        async with backend.connect("alice") as inbox, backend.request("alice") as request:
            assert await (await request.agent("chat")).run("hi") == "alice has said: hi"
            assert [(await inbox.receive())["sequence"] for _ in range(5)] == [1, 2, 3, 4, 5]
        with pytest.raises(RuntimeError, match="is not open"):
            await request.emit("agent_started", {})
    finally:
        await backend.aclose()
