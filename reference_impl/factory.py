"""The scope of one request: context, emitter, agents and sessions, opened and closed as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from random import randint
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from reference_impl.agents import Agent, AgentRegistry, close
from reference_impl.context import RequestContext
from reference_impl.database import Database, UserSession
from reference_impl.emitters import EmitterPool, Lease
from reference_impl.locks import Keyed
from reference_impl.metrics import Metrics
from reference_impl.settings import Settings

# What took so long may be over its limit; to look that up each time would take longer than most stages.
_SUSPICIOUS_S = 0.000_5
# Whose turn it is in this task: an object that nothing else refers to, for tasks may outlive the request.
_TURN: ContextVar[object] = ContextVar("reference_impl_turn", default=None)


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
        hear: is told what is made for one request alone; None tells nobody.
    """

    __slots__ = ("_until_timed", "agents", "database", "hear", "limits", "metrics", "pool", "settings", "threads")

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
        self.hear: Callable[[object], None] | None = None

    def request(self, context: RequestContext) -> RequestScope:
        """The scope of one request, to be opened with ``async with``."""
        return RequestScope(context, self)

    def _is_timed(self) -> bool:
        """Whether the stages of this request are timed: a share of them, drawn so that no rhythm can hide in it."""
        rate = self.settings.sample_rate
        self._until_timed = randint(1, max(1, round(2 / rate) - 1)) if rate else 1_000_000_000
        return bool(rate)

    def _tell(self, name: str, seconds: float, is_timed: bool, error: type[BaseException] | None = None) -> None:
        """Record a stage; one that was not drawn only if it failed or may be over its limit."""
        if is_timed:
            self.metrics.record(name, seconds, error=error)
        elif error is not None or seconds > _SUSPICIOUS_S:
            self.metrics.notice(name, seconds, error=error)


class RequestScope:
    """Everything that belongs to one request and ends with it.

    Attributes:
        context: who asks.
    """

    __slots__ = ("_factory", "_has_ended", "_lease", "_opened", "_ready", "_timed", "_turn", "context")

    def __init__(self, context: RequestContext, factory: RequestFactory) -> None:
        self.context = context
        self._factory = factory
        self._timed = self._has_ended = False
        self._lease: Lease | None = None
        self._ready: UserSession | None = None
        self._opened: list[Any] | None = None
        self._turn: object = None

    async def __aenter__(self) -> Self:
        if self._lease is not None or self._has_ended:
            raise RuntimeError(f"{self.context!r} {'has ended' if self._has_ended else 'is open already'}")
        factory = self._factory
        factory._until_timed -= 1
        if factory._until_timed <= 0:
            self._timed = factory._is_timed()
        if self._timed or not factory.pool.free or not factory.settings.lazy_sessions:
            return await self._open_timed()  # whoever has to wait is timed, for only that can take long
        self._lease = await factory.pool.acquire(self.context.user_id)
        if factory.hear is not None:
            self._tell_belongings(factory.hear)
        return self

    async def _open_timed(self) -> Self:
        factory, begun, failure = self._factory, perf_counter(), None
        try:
            self._lease = await factory.pool.acquire(self.context.user_id)
            if factory.hear is not None:
                self._tell_belongings(factory.hear)
            if not factory.settings.lazy_sessions:
                await self._open_session()
        except BaseException as error:
            failure = type(error)
            raise
        finally:
            factory._tell("factory.context_creation", perf_counter() - begun, self._timed, failure)
        return self

    def _tell_belongings(self, hear: Callable[[object], None]) -> None:
        hear(self.context)
        hear(self._lease)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._has_ended = True
        lease, self._lease = self._lease, None
        try:
            if self._timed or self._opened is not None:
                await self._close_timed()
        finally:
            if lease is not None:
                self._factory.pool.release(lease)  # does not wait, so no cancellation can come between

    async def _close_timed(self) -> None:
        begun, failure = perf_counter(), None
        try:
            await self._close_opened()
        except BaseException as error:
            failure = type(error)
            raise
        finally:
            self._factory._tell("factory.context_cleanup", perf_counter() - begun, self._timed, failure)

    async def agent(self, name: str) -> Agent:
        """A new agent, bound to this request, and closed with it if it has a way to be closed.

        Raises:
            LookupError: there is no agent of this name.
            RuntimeError: the request is not open.
        """
        if self._lease is None:
            raise self._late()
        factory, begun = self._factory, perf_counter()
        try:
            agent = factory.agents.recipe(name).make(self, self._keep)
        except BaseException as error:
            factory._tell("factory.agent_creation", perf_counter() - begun, self._timed, type(error))
            raise
        if self._timed or perf_counter() - begun > _SUSPICIOUS_S:
            factory._tell("factory.agent_creation", perf_counter() - begun, self._timed)
        return agent

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to every inbox of this request's user.

        Raises:
            RuntimeError: the request is not open.
        """
        if self._lease is None:
            raise self._late()
        begun = perf_counter() if self._timed else 0.0
        try:
            self._lease.emit(kind, data)
        except Exception as error:  # it was refused, at once
            self._factory._tell("event.dispatch", 0.0, self._timed, type(error))
            raise
        if self._timed:
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
            self._keep(session)
        if self._factory.hear is not None:
            self._factory.hear(session)
        return session

    @asynccontextmanager
    async def turn(self, agent: str) -> AsyncIterator[None]:
        """The right of an agent to run: one of a conversation, so many of one user, for a limited time.

        An agent that is run by another one of the same request runs in its turn, for that one waits for it.

        Args:
            agent: named in the error.

        Raises:
            AgentTimeout: the time was up, waiting for its turn included.
            RuntimeError: the request is not open.
        """
        if self._lease is None:
            raise self._late()
        user_id, limit_s = self.context.user_id, self._factory.settings.agent_timeout_s
        deadline = asyncio.timeout(limit_s)
        try:
            async with deadline, self._traced("agent.run", agent):
                if self._turn is not None and _TURN.get() is self._turn:
                    yield
                else:
                    async with self._own_turn(user_id):
                        yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise AgentTimeout(f"{agent} of {user_id} did not end within {limit_s:g} s") from error

    def _traced(self, name: str, agent: str) -> AbstractAsyncContextManager[object]:
        """A timed operation where there are spans, so that they have something between the request and its queries."""
        if not self._factory.settings.trace_operations:
            return nullcontext()
        return self._factory.metrics.timed_operation(name, {"agent": agent})

    @asynccontextmanager
    async def _own_turn(self, user_id: str) -> AsyncIterator[None]:
        factory, before = self._factory, _TURN.get()
        async with (
            # In this order: who waits for a conversation takes no permit away from the user's other ones.
            factory.threads.of((user_id, self.context.thread_id)),
            factory.limits.of(user_id),
        ):
            self._turn = turn = object()
            _TURN.set(turn)
            try:
                yield
            finally:
                self._turn = None
                _TURN.set(before)

    def _late(self) -> RuntimeError:
        return RuntimeError(f"{self.context!r} is not open: a late task of it does nothing any more")

    async def _open_session(self) -> None:
        """Take a connection with the request; if that fails or is cancelled, nobody will close the request."""
        try:
            self._ready = await self.session().__aenter__()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise

    def _keep(self, thing: Any) -> None:
        """Close it with the request."""
        if self._opened is None:
            self._opened = []
        self._opened.append(thing)

    async def _close_opened(self) -> None:
        """Close sessions, dependencies and agents, the last one first, also when closing one of them fails."""
        opened, self._opened, self._ready = self._opened or [], None, None
        failed: list[BaseException] = []
        for thing in reversed(opened):
            try:
                await close(thing)
            except BaseException as error:  # the others have to be closed all the same
                failed.append(error)
        if failed:
            # Whoever cancelled it waits for that to happen, and an error of one of them must not hide it.
            raise next((error for error in failed if not isinstance(error, Exception)), failed[0])
