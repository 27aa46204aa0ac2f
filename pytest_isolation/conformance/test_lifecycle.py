"""What a backend opens it closes: requests that break off, users who go away, the backend itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import pytest

if TYPE_CHECKING:
    from pytest_isolation.backend import Backend
    from pytest_isolation.targets.pools import Watch
    from pytest_isolation.users.cast import User

pytestmark = pytest.mark.anyio

_CROWD, _CROWDS = 100, 3
_PATIENCE_S = 30.0
# Time for what was cancelled to end; a task that is still there after it was forgotten.
_SETTLING_S, _LOOKS = 0.05, 20


async def serve(backend: Backend, user_id: str, agent_kind: str) -> None:
    """One whole request."""
    async with backend.request(user_id) as request:
        agent = await request.agent(agent_kind)
        assert user_id in await agent.run(f"this is {user_id}")


async def test_start_and_close_twice(new_backend: Callable[[], Backend], agent_kind: str) -> None:
    """A backend that was closed leaves nothing that keeps the next one from serving, and no task."""
    before = asyncio.all_tasks()
    for turn in ("first", "second"):
        backend = new_backend()
        with anyio.fail_after(_PATIENCE_S):
            await backend.start()
            try:
                async with backend.connect(f"{turn}-user"):
                    await serve(backend, f"{turn}-user", agent_kind)
            finally:
                await backend.aclose()
        for _ in range(_LOOKS):
            left = asyncio.all_tasks() - before
            if not left:
                break
            await anyio.sleep(_SETTLING_S)
        assert not left, f"after aclose() these tasks went on: {left}"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_requests_that_break_off_give_everything_back(
    isolation_backend: Backend, agent_kind: str, end: str
) -> None:
    """Hundreds that fail, or are cancelled, with a session under way; then a hundred are served as ever."""

    async def break_off(user_id: str, scope: anyio.CancelScope) -> None:
        with scope:
            async with isolation_backend.connect(user_id), isolation_backend.request(user_id) as request:
                await request.agent(agent_kind)
                await request.emit("agent_thinking", {"about": user_id})
                async with request.session() as session:
                    await session.ping()
                    if end == "failed":
                        raise ConnectionResetError(user_id)
                    scope.cancel()
                    await session.ping()

    async def come(user_id: str) -> None:
        try:
            await break_off(user_id, anyio.CancelScope())
        except ConnectionResetError:
            assert end == "failed"

    with anyio.fail_after(_PATIENCE_S * _CROWDS):
        for turn in range(_CROWDS):
            async with anyio.create_task_group() as tasks:
                for number in range(_CROWD):
                    tasks.start_soon(come, f"broken-{turn}-{number}")
    with anyio.fail_after(_PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            for number in range(_CROWD):
                tasks.start_soon(serve, isolation_backend, f"after-{number}", agent_kind)


async def test_who_has_gone_away_hears_nothing(isolation_backend: Backend) -> None:
    """An inbox that was closed takes no event, and one that is opened after it begins empty."""
    async with isolation_backend.connect("gone") as gone:
        pass
    async with isolation_backend.request("gone") as request:
        await request.emit("agent_thinking", {"about": "gone"})
    assert gone.pending() == 0
    async with isolation_backend.connect("gone") as back:
        assert back.pending() == 0


@pytest.fixture
def lender(isolation_backend: Backend) -> Backend:
    """The backend, if it says what it lends."""
    if not hasattr(isolation_backend, "pools"):
        pytest.skip(f"{type(isolation_backend).__name__} names no `pools` (pytest_isolation.backend.Pooled) to watch")
    return isolation_backend


@pytest.mark.isolation(users=100, cancel=False)
async def test_nothing_stays_lent(user: User, lender: Backend, agent_kind: str, isolation_watch: Watch) -> None:
    """Of the sessions, emitters and connections that requests were lent, none is left, whoever had it."""
    isolation_watch(lender)
    async with lender.connect(user.id), lender.request(user.id) as request:
        agent = await request.agent(agent_kind)
        user.observe(await agent.run(user.secret("message")))
