"""A request is opened and closed as one."""

import asyncio
import contextlib
import dataclasses
import gc
import time
import tracemalloc
from contextlib import asynccontextmanager

import pytest
from pympler import asizeof

from reference_impl import ReferenceBackend, create_backend
from reference_impl.agents import Agent
from reference_impl.alerts import Alerts
from reference_impl.emitters import PoolExhausted
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


async def test_a_request_that_has_ended_is_not_opened_again():
    """It would lend an emitter to whoever still has the old scope."""
    async with running() as backend:
        async with backend.request("alice") as request:
            pass
        with pytest.raises(RuntimeError, match="has ended"):
            await request.__aenter__()
        assert backend.pool.figures.in_use == 0


async def test_an_agent_may_run_another_one_of_the_same_request():
    """In its own turn: it waits for it, and would wait for ever if that one waited for the conversation to be free."""

    class Outer(Agent):
        async def answer(self, message):
            inner = [await self._tools.agent("counting") for _ in range(3)]
            return await asyncio.gather(*(agent.run(message) for agent in inner))

    class Inner(Counting):
        pass

    async with running(agents_per_user=1, agent_timeout_s=5) as backend:
        backend.registry.register("outer", Outer)
        backend.registry.register("counting", Inner)
        for _ in range(2):
            async with backend.request("alice", thread_id="t") as request:
                assert await (await request.agent("outer")).run("hi") == ["hi"] * 3
    assert Inner.most == 3


async def test_a_task_that_outlives_its_agents_turn_waits_for_one_of_its_own(counting):
    """The permit went back with the turn."""
    left = []

    class Outer(Agent):
        async def answer(self, message):
            agents = [await self._tools.agent("counting") for _ in range(2)]
            left.extend(asyncio.create_task(self._later(agent, message)) for agent in agents)

        async def _later(self, agent, message):
            await asyncio.sleep(0.01)
            await agent.run(message)

    async with running(agents_per_user=1) as backend:
        backend.registry.register("outer", Outer)
        backend.registry.register("counting", counting)
        async with backend.request("alice") as request:
            await (await request.agent("outer")).run("hi")
            await asyncio.gather(*left)
    assert counting.most == 1


async def test_who_waits_for_a_conversation_keeps_no_other_one_waiting():
    """A permit is taken by whoever can use it."""
    going = asyncio.Event()

    class Long(Agent):
        async def answer(self, message):
            await going.wait()

    async with running(agents_per_user=2) as backend:
        backend.registry.register("long", Long)

        async def say(thread, agent):
            async with backend.request("alice", thread_id=thread) as request:
                await (await request.agent(agent)).run("hi")

        waiting = [asyncio.create_task(say("busy", "long")) for _ in range(3)]
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await say("other", "chat")
        going.set()
        await asyncio.gather(*waiting)


class Resource:
    """Something that is closed, and writes that down."""

    def __init__(self, name, closed, fails=None):
        self.name, self.closed, self.fails = name, closed, fails


class AsyncResource(Resource):
    async def aclose(self):
        await asyncio.sleep(0)
        self.closed.append(self.name)
        if self.fails is not None:
            raise self.fails


class SyncResource(Resource):
    def close(self):
        self.closed.append(self.name)


@asynccontextmanager
async def resourceful(closed, fails=None, **settings):
    """A backend whose agent has dependencies, and is itself closed."""

    class Careful(Agent):
        def __init__(self, tools, client, tool, common, plain, *, late):
            super().__init__(tools)

        async def aclose(self):
            closed.append("agent")

    async with running(**settings) as backend:
        common = SyncResource("common", closed)
        backend.registry.provide("client", lambda tools: AsyncResource("client", closed, fails))
        backend.registry.provide("tool", lambda tools: SyncResource("tool", closed))
        backend.registry.provide("common", lambda tools: common, shared=True)
        backend.registry.provide("plain", lambda tools: object())
        backend.registry.provide("late", lambda tools: AsyncResource("late", closed, fails))
        backend.registry.register("careful", Careful)
        yield backend


async def test_agents_and_what_they_were_made_with_are_closed_with_the_request_in_reverse():
    """What belongs to all is not."""
    closed = []
    async with resourceful(closed) as backend:
        for _ in range(2):
            async with backend.request("alice") as request:
                await request.agent("careful")
                assert closed == []
            assert closed == ["agent", "late", "tool", "client"]
            closed.clear()


async def test_what_fails_to_close_keeps_nothing_else_open():
    """The error is told, and a cancellation is not hidden by it."""
    closed = []
    async with resourceful(closed, ValueError("x")) as backend:
        with pytest.raises(ValueError, match="x"):
            async with backend.request("alice") as request:
                await request.agent("careful")
        assert closed == ["agent", "late", "tool", "client"]
        assert backend.pool.figures.in_use == 0

    class Slow(Agent):
        async def aclose(self):
            await asyncio.sleep(60)

    async with resourceful(closed, ValueError("x")) as backend:
        backend.registry.register("slow", Slow)

        async def use():
            async with backend.request("alice") as request:
                await request.agent("careful")
                await request.agent("slow")

        task = asyncio.create_task(use())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert backend.pool.figures.in_use == 0


async def test_what_was_made_for_an_agent_that_could_not_be_made_is_closed_too():
    """One of its dependencies is missing something."""
    closed = []
    async with resourceful(closed) as backend:
        backend.registry.provide("tool", lambda tools: 1 / 0)
        async with backend.request("alice") as request:
            with pytest.raises(ZeroDivisionError):
                await request.agent("careful")
        assert closed == ["client"]
        assert backend.metrics.series("factory.agent_creation").errors == 1


async def test_a_request_carries_what_else_is_known_of_it():
    """A copy that nobody can change."""
    given = {"tags": ["a"]}
    async with running() as backend, backend.request("alice", metadata=given) as request:
        given["tags"].append("b")
        assert request.context.metadata == {"tags": ("a",)}


async def test_errors_are_recorded_also_where_only_a_share_is_measured():
    """In every stage, and of the database."""
    async with running(sample_rate=0.0, emitters_ready=1, emitters_limit=1, emitter_timeout_s=0.01) as backend:
        async with backend.request("alice") as request:
            with pytest.raises(PoolExhausted):
                async with backend.request("bob"):
                    pass
            with pytest.raises(LookupError):
                await request.agent("nobody")
            with pytest.raises(ValueError, match="no event of kind"):
                await request.emit("party", {})
            with pytest.raises(UnicodeEncodeError):
                await request.session().save("\ud800")
        errors = {series.name: series.errors for series in backend.metrics if series.errors}
        assert errors == {
            "factory.context_creation": 1,
            "factory.agent_creation": 1,
            "event.dispatch": 1,
            "database.query": 1,
        }


async def test_what_is_over_its_limit_is_told_also_where_only_a_share_is_measured():
    """It is kept in detail, and is not counted among the durations, of which it would be more than its share."""

    class Heavy(Agent):
        def __init__(self, tools):
            super().__init__(tools)
            time.sleep(0.02)

        async def aclose(self):
            await asyncio.sleep(0.02)

    async with running(sample_rate=0.0, emitters_ready=1, emitters_limit=1) as backend:
        stages = ("factory.context_creation", "factory.agent_creation", "factory.context_cleanup")
        alerts = Alerts(backend.metrics, dict.fromkeys(stages, 0.01))
        backend.registry.register("heavy", Heavy)

        async def use():
            async with backend.request("alice") as request:
                await request.agent("heavy")

        await asyncio.gather(use(), use())
        assert {alert.name for alert in alerts.latest} == set(stages)
        assert {detail.name for detail in backend.metrics.details()} == set(stages)
        assert [series.count for series in backend.metrics if series.name in stages] == [0, 0, 0]


async def test_the_naive_backend_keeps_to_the_same_limits(counting):
    """So many agents of one user, one message of a conversation after another."""
    backend = NaiveBackend(Settings(agents_per_user=3))
    backend.registry.register("counting", counting)
    await backend.start()
    try:
        await run_many(backend, ["alice"] * 8)
        assert counting.most == 3
        counting.most = 0
        await run_many(backend, ["alice"] * 4, thread_id="t")
        assert counting.most == 1
    finally:
        await backend.aclose()


async def test_a_request_leaves_nothing_for_the_garbage_collector():
    """Everything goes with the last reference, without a pause for anybody."""
    async with running() as backend:

        async def serve():
            async with backend.request("alice") as request:
                await request.emit("agent_thinking", {"about": "x"})
                await request.agent("chat")

        async def left() -> int:
            gc.collect()
            for _ in range(100):
                await serve()
            return gc.collect()

        await serve()
        gc.disable()
        try:
            assert 0 in [await left() for _ in range(3)]  # a thread of an earlier test may end just now
        finally:
            gc.enable()


@pytest.mark.parametrize("uses_session", [False, True])
async def test_an_open_request_is_small(uses_session):
    """With its lease, an agent, a listener and an event the specification allows 5 KB.

    A session that has been used is SQLAlchemy's own, and as big again; of it only what this package adds is counted.
    """
    async with running(emitters_ready=200) as backend, contextlib.AsyncExitStack() as stack:

        async def use(user):
            await stack.enter_async_context(backend.connect(user))
            request = await stack.enter_async_context(backend.request(user))
            await request.emit("agent_thinking", {"about": "x"})
            if uses_session:
                await request.session().load()
            return await request.agent("chat")

        kept = [await use(name) for name in ("warm", "up")]
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.take_snapshot()
            kept += [await use(f"user-{n}") for n in range(100)]
            gc.collect()
            growth = tracemalloc.take_snapshot().compare_to(before, "filename")
        finally:
            tracemalloc.stop()
        ours = (one for one in growth if not uses_session or "reference_impl" in one.traceback[0].filename)
        assert sum(one.size_diff for one in ours) / 100 < 5000


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


async def test_the_naive_backend_keeps_the_latest_thousand_details():
    """What comes later takes the place of what came before, and no more memory; all are counted."""
    backend = NaiveBackend(Settings())
    for name in ["early.operation"] * 500 + ["late.operation"] * 1000:
        async with backend.measured(name):
            pass
    assert [detail.name for detail in backend.metrics.details()] == ["late.operation"] * 1000
    assert {series.name: series.count for series in backend.metrics} == {"early.operation": 500, "late.operation": 1000}
