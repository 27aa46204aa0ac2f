"""What is measured: the stages of a request, through the door that every backend has, and through real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import inf, nan
from types import MappingProxyType
from typing import TypeVar

from pytest_isolation.backend import Backend, Request, Session
from pytest_isolation.errors import MisuseError
from pytest_isolation.latency.spans import Recorder
from pytest_isolation.load.target import Seat
from pytest_isolation.users.cast import Cast, User
from pytest_isolation.verdicts import Budget

T = TypeVar("T")

_STAY = 20  # an agent may answer with all that a user has said; so after so many calls there comes another one


class Site:
    """Where it is measured.

    Args:
        backend: that has been started.
        cast: where users come from.
        seat: at an application behind real sockets; None if there is none.

    Attributes:
        backend: the same.
        agent: the kind of agent that is asked.
    """

    def __init__(self, backend: Backend, cast: Cast, seat: Seat | None = None) -> None:
        self.backend = backend
        self.agent = backend.agents[0]
        self._cast = cast
        self._seat = seat
        self._user: User | None = None
        self._calls = 0

    @property
    def seat(self) -> Seat:
        """At the application; only areas over sockets ask for it."""
        assert self._seat is not None
        return self._seat

    def user(self) -> User:
        """Who calls next."""
        if self._user is None or self._calls % _STAY == 0:
            [self._user] = self._cast.users(1)
        self._calls += 1
        return self._user


Body = Callable[[Site, Recorder], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Area:
    """A kind of call, and the stages of it that have targets.

    Attributes:
        name: in the table.
        part: the option that asks for it.
        targets: seconds by stage, for the p95; the stage without a name is the whole call.
        body: the call.
        over_sockets: it needs an application.
        paced: so many users come at their rate, instead of one call after another.
    """

    name: str
    part: str
    targets: Mapping[str | None, float]
    body: Body
    over_sockets: bool = False
    paced: bool = False

    @property
    def budgets(self) -> list[Budget]:
        """What is judged."""
        return [Budget(0.95, target_s, stage) for stage, target_s in self.targets.items()]

    def held_to(self, targets: Mapping[str, float]) -> Area:
        """The same with other targets, in seconds, by the name of the stage; a whole call is named as the area is."""
        mine = {stage: targets.get(stage or self.name, own) for stage, own in self.targets.items()}
        return replace(self, targets=MappingProxyType(mine))


@asynccontextmanager
async def _timed(scope: AbstractAsyncContextManager[T], recorder: Recorder, enter: str, leave: str) -> AsyncIterator[T]:
    """A scope whose beginning and end are stages."""
    with recorder.span(enter):
        entered = await scope.__aenter__()
    try:
        yield entered
    except BaseException as error:
        if not await scope.__aexit__(type(error), error, error.__traceback__):
            raise
    else:
        with recorder.span(leave):
            await scope.__aexit__(None, None, None)


async def _request(site: Site, recorder: Recorder) -> None:
    scope = site.backend.request(site.user().id)
    async with _timed(scope, recorder, "context.create", "context.cleanup") as request:
        with recorder.span("agent.create"):
            await request.agent(site.agent)


async def _event(site: Site, recorder: Recorder) -> None:
    user = site.user()
    async with (
        _timed(site.backend.connect(user.id), recorder, "inbox.open", "inbox.close") as inbox,
        site.backend.request(user.id) as request,
    ):
        with recorder.span("event.dispatch"):
            await request.emit("agent_thinking", {"about": "a profile"})
            await inbox.receive()


@asynccontextmanager
async def _acquired(request: Request) -> AsyncIterator[Session]:
    """A session that has its connection: where sessions are lazy, only the first query gets one."""
    async with request.session() as session:
        await session.ping()
        yield session


async def _query(site: Site, recorder: Recorder) -> None:
    async with (
        site.backend.request(site.user().id) as request,
        _timed(_acquired(request), recorder, "session.acquire", "session.close") as session,
    ):
        with recorder.span("query.simple"):
            await session.ping()


async def _whole(site: Site, _recorder: Recorder) -> None:
    async with site.backend.request(site.user().id) as request:
        agent = await request.agent(site.agent)
        await agent.run("what is new?")
        await request.emit("agent_completed", {"answer": "nothing"})


async def _event_over_a_socket(site: Site, recorder: Recorder) -> None:
    user, message = site.user(), "what is new?"
    async with _timed(site.seat.listen(user), recorder, "socket.connect", "socket.close") as receive:
        with recorder.span("socket.event"):
            asking = asyncio.create_task(site.seat.ask(user, message))
            try:
                while not site.seat.is_last(await receive(), message, ""):
                    pass
            except BaseException:
                asking.cancel()
                raise
        await asking


async def _whole_over_http(site: Site, _recorder: Recorder) -> None:
    await site.seat.ask(site.user(), "what is new?")


def _targets(**milliseconds: float) -> Mapping[str | None, float]:
    return MappingProxyType({name.replace("_", "."): value / 1e3 for name, value in milliseconds.items()})


_REQUEST: Mapping[str | None, float] = MappingProxyType({None: 0.020})

AREAS = (
    Area("factory", "factory", _targets(context_create=10, agent_create=10, context_cleanup=5), _request),
    Area("websocket", "websocket", _targets(inbox_open=1, event_dispatch=5), _event),
    Area("socket", "websocket", _targets(socket_connect=20, socket_event=20), _event_over_a_socket, over_sockets=True),
    Area("database", "database", _targets(session_acquire=2, query_simple=1, session_close=5), _query),
    Area("e2e", "e2e", _REQUEST, _whole),
    Area("e2e over HTTP", "e2e", _REQUEST, _whole_over_http, over_sockets=True),
    Area("concurrent", "concurrent", _REQUEST, _whole, paced=True),
)
STAGES = tuple(stage or area.name for area in AREAS for stage in area.targets)
PARTS = tuple(dict.fromkeys(area.part for area in AREAS))


def read_targets(texts: Iterable[str]) -> Mapping[str, float]:
    """Read ``session.acquire=0.5``: by the name of a stage, milliseconds, in seconds.

    Raises:
        MisuseError: it cannot be read: what is wrong, and the right form.
    """
    targets: dict[str, float] = {}
    for text in texts:
        stage, equals, limit = (part.strip() for part in text.partition("="))
        if stage not in STAGES:
            close = get_close_matches(stage, STAGES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise MisuseError(f"--target: there is no stage {stage!r}{hint} There are {', '.join(STAGES)}")
        try:
            limit_s = float(limit) / 1e3
        except ValueError:
            limit_s = nan
        if not (equals and 0 < limit_s < inf):
            raise MisuseError(f"--target {text}: a target is a number of milliseconds > 0: {stage}=5")
        targets[stage] = limit_s
    return targets
