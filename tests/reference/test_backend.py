"""A request is opened and closed as one."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from reference_impl import ReferenceBackend, create_backend
from reference_impl.agents import Agent, AgentRegistry, ChatAgent

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def running():
    backend = create_backend()
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
        assert backend._pool.figures.in_use == 0


async def test_a_request_that_has_ended_does_nothing_any_more():
    """A late task holds on to its scope, its session or its agent."""
    async with running() as backend:
        async with backend.request("alice") as request:
            session, agent = request.session(), await request.agent("chat")
            await session.save("note")
        assert backend._database.pool.checkedout() == 0
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


async def test_an_unknown_agent_is_named_with_those_that_there_are():
    """And one that is registered later is found."""
    registry = AgentRegistry()
    with pytest.raises(LookupError, match="no agent 'chat'; there are none"):
        registry.find("chat")
    registry.register("chat", ChatAgent)
    assert registry.find("chat") is ChatAgent
    with pytest.raises(ValueError, match="the agent 'chat' is ChatAgent already"):
        registry.register("chat", Agent)
    with pytest.raises(NotImplementedError, match="Agent has no run"):
        await Agent(None).run("x")


async def test_a_backend_can_be_given_a_database(tmp_path):
    """Any URL of SQLAlchemy with an async driver."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'kept.db'}"
    for expected in (["one"], ["one", "one"]):
        backend = ReferenceBackend(url)
        await backend.start()
        async with backend.request("alice") as request, request.session() as session:
            await session.save("one")
            assert list(await session.load()) == expected
        await backend.aclose()
