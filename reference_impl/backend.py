"""The whole backend behind one door; it satisfies ``pytest_isolation.backend.Backend`` by its shape alone."""

from __future__ import annotations

from collections.abc import Sequence

from reference_impl.agents import AgentRegistry, ChatAgent
from reference_impl.connections import Connection, Connections
from reference_impl.context import RequestContext
from reference_impl.database import Database
from reference_impl.emitters import EmitterPool
from reference_impl.factory import RequestScope


class ReferenceBackend:
    """A backend with many users, built so that none of them reaches another.

    Args:
        url: of the database, for SQLAlchemy and an async driver; None is a SQLite file of its own.
    """

    def __init__(self, url: str | None = None) -> None:
        self._registry = AgentRegistry()
        self._registry.register("chat", ChatAgent)
        self._connections = Connections()
        self._pool = EmitterPool(self._connections.dispatch)
        self._database = Database(url)

    @property
    def agents(self) -> Sequence[str]:
        """The names of all agents."""
        return self._registry.names

    async def start(self) -> None:
        """Begin to serve, in the running event loop."""
        await self._database.start()

    async def aclose(self) -> None:
        """Give everything back."""
        await self._database.aclose()

    def request(self, user_id: str) -> RequestScope:
        """Open the scope of one request with ``async with``."""
        return RequestScope(RequestContext(user_id), self._registry, self._pool, self._database)

    def connect(self, user_id: str) -> Connection:
        """Let a user listen to its events for the time of an ``async with`` block."""
        return self._connections.connect(user_id)


def create_backend() -> ReferenceBackend:
    """The backend as it comes: SQLite, no server needed."""
    return ReferenceBackend()
