"""What requests hold: nothing once they have ended, and a bounded amount while a hundred are open."""

from __future__ import annotations

from itertools import count, cycle
from typing import TYPE_CHECKING

import anyio
import pytest

if TYPE_CHECKING:
    from pytest_isolation.backend import Backend

pytestmark = pytest.mark.anyio

_USERS = 100
_PATIENCE_S = 30.0


@pytest.fixture
def user_ids() -> cycle[str]:
    """Users who come again and again, as they do: what is kept of each of them once is no growth."""
    return cycle([f"memory-user-{number}" for number in range(_USERS)])


@pytest.fixture
def has_session() -> cycle[bool]:
    """One request in ten opens a session, which takes longer than all else; even so a session that stays shows."""
    return cycle([True, *[False] * 9])


@pytest.mark.memory(growth_kb=10)
async def test_requests_leave_nothing_behind(
    isolation_backend: Backend, agent_kind: str, user_ids: cycle[str], has_session: cycle[bool]
) -> None:
    """A thousand requests, with an agent and an event each, and a hundred sessions, leave at most 10 KB."""
    user_id = next(user_ids)
    async with isolation_backend.connect(user_id) as inbox, isolation_backend.request(user_id) as request:
        await request.agent(agent_kind)
        if next(has_session):
            async with request.session() as session:
                await session.ping()
        await request.emit("agent_thinking", {"about": user_id})
        with anyio.fail_after(_PATIENCE_S):
            await inbox.receive()


@pytest.mark.memory(peak_mb=65)
async def test_a_hundred_users_at_once(isolation_backend: Backend, agent_kind: str) -> None:
    """A hundred requests that are open at the same time, with agent, answer and inbox, hold at most 65 MB together."""
    all_open, arrived = anyio.Event(), count(1)

    async def serve(user_id: str) -> None:
        async with isolation_backend.connect(user_id), isolation_backend.request(user_id) as request:
            agent = await request.agent(agent_kind)
            answer = await agent.run(f"this is {user_id}")
            if next(arrived) == _USERS:
                all_open.set()
            await all_open.wait()
            assert user_id in answer

    with anyio.fail_after(_PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            for number in range(_USERS):
                tasks.start_soon(serve, f"memory-user-{number}")
