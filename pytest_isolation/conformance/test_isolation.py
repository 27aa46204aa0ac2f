"""Nothing of one user reaches another: in data, in events, after an error, after reuse, at 100 and 200 users."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

if TYPE_CHECKING:
    from pytest_isolation.backend import Backend, Inbox, Request
    from pytest_isolation.users.cast import User

pytestmark = pytest.mark.anyio

_PATIENCE_S = 30.0


def follow(user: User, *things: object) -> None:
    """Have these gone when the user's run has ended, as far as they can be referred to weakly."""
    for thing in things:
        with contextlib.suppress(TypeError):
            weakref.ref(thing)
            user.track(thing)


crowds = pytest.mark.parametrize(
    "crowd",
    [pytest.param(users, marks=pytest.mark.isolation(users=users), id=f"{users}-users") for users in (100, 200)],
)


@pytest.fixture
def request_ids() -> set[str]:
    """Of all requests of a crowd."""
    return set()


class Interrupted(Exception):
    """What goes wrong in the middle of a request."""


async def watch(user: User, inbox: Inbox, request: Request) -> None:
    """Observe every event that has reached a user's inbox, up to one that is sent now."""
    end = user.secret("end")
    await request.emit("agent_completed", {"answer": end})
    with anyio.fail_after(_PATIENCE_S):
        while True:
            event = user.observe(await inbox.receive(), "event")
            if event.get("answer") == end:
                return


@crowds
async def test_own_data_only(
    user: User, isolation_backend: Backend, agent_kind: str, request_ids: set[str], crowd: int
) -> None:
    """A user reads back what it wrote, and nothing of anybody else; no two requests have the same id."""
    async with isolation_backend.request(user.id) as request:
        user.observe(request.context.user_id, "context")
        assert request.context.request_id not in request_ids
        request_ids.add(request.context.request_id)
        async with request.session() as session:
            await session.save(user.secret("note"))
            user.observe(await session.load(), "database")
            follow(user, session)
        agent = await request.agent(agent_kind)
        follow(user, request, request.context, agent)
        user.observe(await agent.run(user.secret("message")))
        assert request.context.user_id == user.id


@crowds
async def test_own_events_only(user: User, isolation_backend: Backend, agent_kind: str, crowd: int) -> None:
    """Every event of a user's request reaches that user, and nobody else."""
    async with isolation_backend.connect(user.id) as inbox, isolation_backend.request(user.id) as request:
        await request.emit("agent_thinking", {"about": user.secret("thought")})
        agent = await request.agent(agent_kind)
        user.observe(await agent.run(user.secret("message")))
        await watch(user, inbox, request)


@crowds
async def test_state_after_an_error(user: User, isolation_backend: Backend, agent_kind: str, crowd: int) -> None:
    """A request that breaks off in the middle leaves nothing for whoever comes next."""
    async with isolation_backend.connect(user.id) as inbox:
        with pytest.raises(Interrupted):
            async with isolation_backend.request(user.id) as request:
                follow(user, request, request.context)
                await request.emit("agent_thinking", {"about": user.secret("before")})
                async with request.session() as session:
                    await session.save(user.secret("note"))
                    raise Interrupted
        async with isolation_backend.request(user.id) as request:
            agent = await request.agent(agent_kind)
            user.observe(await agent.run(user.secret("after")))
            await watch(user, inbox, request)


@crowds
async def test_late_events(user: User, isolation_backend: Backend, crowd: int) -> None:
    """An event that is sent through a request that has ended reaches nobody else: it is refused, or stays at home."""
    async with isolation_backend.connect(user.id) as inbox:
        async with isolation_backend.request(user.id) as ended:
            await ended.emit("agent_thinking", {"about": user.secret("early")})
        async with isolation_backend.request(user.id) as request:
            await anyio.lowlevel.checkpoint()  # what the first request used may belong to somebody else by now
            with contextlib.suppress(Exception):  # how a backend refuses is its own affair
                await ended.emit("agent_thinking", {"about": user.secret("late")})
            await watch(user, inbox, request)


@crowds
async def test_state_after_reuse(user: User, isolation_backend: Backend, agent_kind: str, crowd: int) -> None:
    """Whatever is used again for other users in between, a user's third request knows its own story only."""
    for turn in ("first", "second", "third"):
        async with isolation_backend.connect(user.id) as inbox, isolation_backend.request(user.id) as request:
            agent = await request.agent(agent_kind)
            user.observe(await agent.run(user.secret(turn)))
            await watch(user, inbox, request)
