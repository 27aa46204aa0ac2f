"""The whole backend behind one door; it satisfies ``pytest_isolation.backend.Backend`` by its shape alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

from reference_impl.agents import AgentRegistry, ChatAgent
from reference_impl.broker import make_broker
from reference_impl.connections import Connection, Connections
from reference_impl.context import RequestContext
from reference_impl.database import Database
from reference_impl.emitters import EmitterPool
from reference_impl.export import gauges_of
from reference_impl.factory import RequestFactory, RequestScope
from reference_impl.metrics import Metrics
from reference_impl.settings import BALANCED, Settings, from_environment


class ReferenceBackend:
    """A backend with many users, built so that none of them reaches another.

    Args:
        settings: how it is built.

    Attributes:
        settings: how it is built.
        registry: how agents are made; more may be registered at any time.
        connections: where users listen.
        broker: carries events to other replicas.
        pool: lends emitters.
        database: opens sessions.
        metrics: what everything costs.
        started_s: how long ``start()`` took; 0 before.
    """

    def __init__(self, settings: Settings = BALANCED) -> None:
        self.settings = settings
        self.metrics = Metrics(settings.sample_rate)
        if settings.trace_operations:
            _trace(self.metrics)
        self.registry = AgentRegistry(settings.class_cache_size if settings.cache_classes else 0)
        self.registry.register("chat", ChatAgent)
        self.connections = Connections(settings.inbox_limit)
        self.broker = make_broker(settings.broker_url)
        self.pool = EmitterPool(
            self.broker.dispatch,
            ready=settings.emitters_ready,
            limit=settings.emitters_limit,
            timeout_s=settings.emitter_timeout_s,
            reuse=settings.pool_emitters,
        )
        self.database = Database(
            settings.database_url,
            lazy=settings.lazy_sessions,
            lazy_start=settings.lazy_start,
            pool_size=settings.database_pool_size,
            max_overflow=settings.database_max_overflow,
            record=self.metrics.record,
        )
        self.started_s = 0.0
        self._requests = RequestFactory(settings, self.registry, self.pool, self.database, self.metrics)
        self._cleanup = AsyncExitStack()

    @property
    def agents(self) -> Sequence[str]:
        """The names of all agents."""
        return self.registry.names

    @property
    def pools(self) -> Sequence[object]:
        """What is lent to one request after another: emitters, and connections of the database once it has started.

        ``isolation_watch(backend)`` watches them.
        """
        return [self.pool, *([self.database.engine] if self.database.connect_s is not None else [])]

    @property
    def gauges(self) -> Mapping[str, float]:
        """What is known besides the metrics: the figures of every part."""
        figures = gauges_of(
            emitters=self.pool.figures,
            classes=self.registry.figures,
            database=self.database.figures,
            broker=self.broker.figures,
        )
        first_s = self.database.connect_s or 0.0  # what the first request paid, where the start is lazy
        sockets = {"sockets.open": len(self.connections), "sockets.dropped": self.connections.dropped}
        return {**figures, **sockets, "start.seconds": self.started_s, "database.connect_seconds": first_s}

    def tell_belongings(self, hear: Callable[[object], None] | None) -> None:
        """Call this with every context, lease and session when it is made; None calls nobody any more."""
        self._requests.hear = hear

    async def start(self) -> None:
        """Begin to serve, in the running event loop."""
        begun = perf_counter()
        self._cleanup.push_async_callback(self.database.aclose)
        await self.database.start()
        self._cleanup.push_async_callback(self.broker.aclose)
        await self.broker.start(self.connections.dispatch)
        self._cleanup.callback(self.connections.close)
        self.started_s = perf_counter() - begun

    async def aclose(self) -> None:
        """Give everything back: listeners first, then the broker, then the database."""
        await self._cleanup.aclose()

    def request(
        self,
        user_id: str,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> RequestScope:
        """Open the scope of one request with ``async with``.

        Args:
            user_id: whose it is.
            thread_id: the conversation that it belongs to.
            run_id: the run of the agent.
            metadata: what else is known of it; it is copied.
        """
        return self._requests.request(RequestContext(user_id, thread_id=thread_id, run_id=run_id, metadata=metadata))

    def connect(self, user_id: str) -> Connection:
        """Let a user listen to its events for the time of an ``async with`` block."""
        return self.connections.connect(user_id)


def _trace(metrics: Metrics) -> None:
    try:
        from reference_impl.tracing import trace_operations
    except ImportError as error:
        raise ValueError(f"trace_operations needs an extra: pip install 'pytest-isolation[otel]' ({error})") from error
    trace_operations(metrics)


def create_backend() -> ReferenceBackend:
    """The backend as the environment wants it (``REFERENCE_PRESET``, ``REFERENCE_DATABASE_URL``, …).

    Without any of it that is the preset ``balanced`` on SQLite, and no server is needed.
    """
    return ReferenceBackend(from_environment())
