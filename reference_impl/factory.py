"""The scope of one request: context, emitter, agents and sessions, opened and closed as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import randint
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from reference_impl.agents import Agent, AgentRegistry
from reference_impl.context import RequestContext
from reference_impl.database import Database, UserSession
from reference_impl.emitters import EmitterPool, Lease
from reference_impl.locks import Keyed
from reference_impl.metrics import Metrics
from reference_impl.settings import Settings


class AgentTimeout(TimeoutError):
    """An agent took too long, or its turn never came."""


class RequestFactory:
    """Opens requests; it holds what all of them share, and nothing of any.

    Args:
        settings: limits and switches.
        agents: how agents are made.
        pool: lends emitters.
        database: opens sessions.
        metrics: what everything costs.

    Attributes:
        limits: how many agents of one user may run at once.
        threads: the turns of one conversation, which is answered one message after another.
    """

    __slots__ = ("_until_timed", "agents", "database", "limits", "metrics", "pool", "settings", "threads")

    def __init__(
        self, settings: Settings, agents: AgentRegistry, pool: EmitterPool, database: Database, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.agents = agents
        self.pool = pool
        self.database = database
        self.metrics = metrics
        self.limits: Keyed[asyncio.Semaphore] = Keyed(lambda: asyncio.Semaphore(settings.agents_per_user))
        self.threads: Keyed[asyncio.Lock] = Keyed(asyncio.Lock, shared=not settings.lock_per_key)
        self._until_timed = 1

    def request(self, context: RequestContext) -> RequestScope:
        """The scope of one request, to be opened with ``async with``."""
        return RequestScope(context, self)

    def _is_timed(self) -> bool:
        """Whether the stages of this request are timed: a share of them, drawn so that no rhythm can hide in it."""
        rate = self.settings.sample_rate
        self._until_timed = randint(1, max(1, round(2 / rate) - 1)) if rate else 1_000_000_000
        return bool(rate)


class RequestScope:
    """Everything that belongs to one request and ends with it.

    Attributes:
        context: who asks.
    """

    __slots__ = ("_factory", "_lease", "_ready", "_sessions", "_timed", "context")

    def __init__(self, context: RequestContext, factory: RequestFactory) -> None:
        self.context = context
        self._factory = factory
        self._timed = False
        self._lease: Lease | None = None
        self._ready: UserSession | None = None
        self._sessions: list[UserSession] | None = None

    async def __aenter__(self) -> Self:
        if self._lease is not None:
            raise RuntimeError(f"{self.context!r} is open already")
        factory, begun = self._factory, 0.0
        factory._until_timed -= 1
        if factory._until_timed <= 0 and factory._is_timed():
            self._timed, begun = True, perf_counter()
        self._lease = await factory.pool.acquire(self.context.user_id)
        if not factory.settings.lazy_sessions:
            await self._open_session()
        if self._timed:
            factory.metrics.record("context.create", perf_counter() - begun)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        begun = perf_counter() if self._timed else 0.0
        lease, self._lease = self._lease, None
        try:
            if self._sessions is not None:
                await self._close_sessions()
        finally:
            if lease is not None:
                self._factory.pool.release(lease)  # does not wait, so no cancellation can come between
        if self._timed:
            self._factory.metrics.record("context.cleanup", perf_counter() - begun)

    async def agent(self, name: str) -> Agent:
        """A new agent, bound to this request.

        Raises:
            LookupError: there is no agent of this name.
            RuntimeError: the request is not open.
        """
        if self._lease is None:
            raise self._late()
        if not self._timed:
            return self._factory.agents.recipe(name).make(self)
        begun = perf_counter()
        agent = self._factory.agents.recipe(name).make(self)
        self._factory.metrics.record("agent.create", perf_counter() - begun)
        return agent

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to every inbox of this request's user.

        Raises:
            RuntimeError: the request is not open.
        """
        if self._lease is None:
            raise self._late()
        if not self._timed:
            self._lease.emit(kind, data)
            return
        begun = perf_counter()
        self._lease.emit(kind, data)
        self._factory.metrics.record("event.dispatch", perf_counter() - begun)

    def session(self) -> UserSession:
        """A database session of this request's user; what is still open when the request ends is closed with it.

        Raises:
            RuntimeError: the request is not open.
        """
        if self._lease is None:
            raise self._late()
        session, self._ready = self._ready, None
        if session is None:
            session = self._factory.database.session(self.context.user_id)
            if self._sessions is None:
                self._sessions = []
            self._sessions.append(session)
        return session

    @asynccontextmanager
    async def turn(self, agent: str) -> AsyncIterator[None]:
        """The right of an agent to run: so many of one user, one of a conversation, for a limited time.

        Args:
            agent: named in the error.

        Raises:
            AgentTimeout: the time was up, waiting for its turn included.
            RuntimeError: the request is not open.
        """
        if self._lease is None:
            raise self._late()
        factory, user_id = self._factory, self.context.user_id
        limit_s = factory.settings.agent_timeout_s
        deadline = asyncio.timeout(limit_s)
        try:
            async with (
                deadline,
                factory.limits.of(user_id),
                factory.threads.of((user_id, self.context.thread_id)),
            ):
                yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise AgentTimeout(f"{agent} of {user_id} did not end within {limit_s:g} s") from error

    def _late(self) -> RuntimeError:
        return RuntimeError(f"{self.context!r} is not open: a late task of it does nothing any more")

    async def _open_session(self) -> None:
        """Take a connection with the request; if that fails or is cancelled, nobody will close the request."""
        try:
            self._ready = await self.session().__aenter__()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise

    async def _close_sessions(self) -> None:
        """Close every session, the last one first, also when closing one of them fails."""
        sessions, self._sessions, self._ready = self._sessions or [], None, None
        failed: list[BaseException] = []
        for session in reversed(sessions):
            try:
                await session.aclose()
            except BaseException as error:  # the others have to be closed all the same
                failed.append(error)
        if failed:
            raise failed[0]
