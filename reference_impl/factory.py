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

    __slots__ = ("_agents", "_database", "_lease", "_pool", "context")

    def __init__(self, context: RequestContext, agents: AgentRegistry, pool: EmitterPool, database: Database) -> None:
        self.context = context
        self._agents = agents
        self._pool = pool
        self._database = database
        self._lease: Lease | None = None

    async def __aenter__(self) -> Self:
        self._lease = await self._pool.acquire(self.context.user_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            self._pool.release(lease)  # does not wait, so no cancellation can come between

    async def agent(self, name: str) -> Agent:
        """A new agent, bound to this request.

        Raises:
            LookupError: there is no agent of this name.
        """
        return self._agents.find(name)(self)

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to every inbox of this request's user.

        Raises:
            RuntimeError: the request has ended.
        """
        if self._lease is None:
            raise RuntimeError(f"{self.context!r} has ended: it sends nothing any more")
        self._lease.emit(kind, data)

    def session(self) -> UserSession:
        """A database session of this request's user."""
        return self._database.session(self.context.user_id)
