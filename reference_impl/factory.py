"""The scope of one request: context, emitter, agents and sessions, opened and closed as one."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from reference_impl.agents import Agent, AgentRegistry
from reference_impl.context import RequestContext
from reference_impl.database import Database, UserSession
from reference_impl.emitters import EmitterPool, Lease


class RequestScope:
    """Everything that belongs to one request and ends with it.

    Attributes:
        context: who asks.
    """

    __slots__ = ("_agents", "_database", "_lease", "_pool", "_sessions", "context")

    def __init__(self, context: RequestContext, agents: AgentRegistry, pool: EmitterPool, database: Database) -> None:
        self.context = context
        self._agents = agents
        self._pool = pool
        self._database = database
        self._lease: Lease | None = None
        self._sessions: list[UserSession] = []

    async def __aenter__(self) -> Self:
        self._lease = await self._pool.acquire(self.context.user_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        lease, self._lease = self._lease, None
        try:
            while self._sessions:
                await self._sessions.pop().aclose()
        finally:
            if lease is not None:
                self._pool.release(lease)  # does not wait, so no cancellation can come between

    async def agent(self, name: str) -> Agent:
        """A new agent, bound to this request.

        Raises:
            LookupError: there is no agent of this name.
            RuntimeError: the request is not open.
        """
        self._open()
        return self._agents.find(name)(self)

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to every inbox of this request's user.

        Raises:
            RuntimeError: the request is not open.
        """
        self._open().emit(kind, data)

    def session(self) -> UserSession:
        """A database session of this request's user; what is still open when the request ends is closed with it.

        Raises:
            RuntimeError: the request is not open.
        """
        self._open()
        session = self._database.session(self.context.user_id)
        self._sessions.append(session)
        return session

    def _open(self) -> Lease:
        if self._lease is None:
            raise RuntimeError(f"{self.context!r} is not open: a late task of it does nothing any more")
        return self._lease
