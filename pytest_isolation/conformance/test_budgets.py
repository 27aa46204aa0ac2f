"""The seed budgets: what each stage of a request may cost, and a request among a hundred users."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_isolation import Latency
    from pytest_isolation.backend import Backend
    from pytest_isolation.users.cast import User

pytestmark = pytest.mark.anyio

_numbers = count()


def a_user() -> str:
    """A user who has no history, so that no sample is dearer than the one before."""
    return f"budget-user-{next(_numbers)}"


@pytest.mark.latency(span="context.create", p95_ms=10)
@pytest.mark.latency(span="context.cleanup", p95_ms=5)
async def test_context(isolation_backend: Backend, latency: Latency) -> None:
    """A request's scope is opened within 10 ms and cleaned up within 5 ms."""
    user_id = a_user()
    scope = isolation_backend.request(user_id)
    async with latency.span("context.create"):
        request = await scope.__aenter__()
    try:  # what has been used is dearer to clean up
        await request.emit("agent_thinking", {"about": user_id})
        async with request.session() as session:
            await session.ping()
    finally:
        async with latency.span("context.cleanup"):
            await scope.__aexit__(None, None, None)


@pytest.mark.latency(span="agent.create", p95_ms=10)
async def test_agent(isolation_backend: Backend, agent_kind: str, latency: Latency) -> None:
    """An agent is made within 10 ms."""
    async with isolation_backend.request(a_user()) as request:
        async with latency.span("agent.create"):
            await request.agent(agent_kind)


@pytest.mark.latency(span="event.dispatch", p95_ms=5)
async def test_dispatch(isolation_backend: Backend, latency: Latency) -> None:
    """An event reaches its user's inbox within 5 ms."""
    user_id = a_user()
    async with isolation_backend.connect(user_id) as inbox, isolation_backend.request(user_id) as request:
        async with latency.span("event.dispatch"):
            await request.emit("agent_thinking", {"about": user_id})
            event = await inbox.receive()
    assert event["about"] == user_id


@pytest.mark.latency(span="database.session", p95_ms=2)
async def test_session(isolation_backend: Backend, latency: Latency) -> None:
    """A database session is opened, used for one round trip and closed within 2 ms."""
    async with isolation_backend.request(a_user()) as request:
        async with latency.span("database.session"), request.session() as session:
            await session.ping()


@pytest.mark.latency(p95_ms=20)
async def test_request(isolation_backend: Backend, agent_kind: str) -> None:
    """A whole request, database and events included, takes 20 ms at most."""
    user_id = a_user()
    async with isolation_backend.request(user_id) as request:
        agent = await request.agent(agent_kind)
        answer = await agent.run(f"this is {user_id}")
    assert user_id in answer


@pytest.mark.isolation(users=100)
@pytest.mark.latency(p95_ms=50, rate=100)
async def test_request_among_100_users(user: User, isolation_backend: Backend, agent_kind: str) -> None:
    """Each of 100 users makes a request a second: it is answered within 50 ms of the moment at which it was due."""
    async with isolation_backend.request(user.id) as request:
        agent = await request.agent(agent_kind)
        user.observe(await agent.run(user.secret("message")))
