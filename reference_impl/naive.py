"""The same backend before any optimisation: the "before" of every before-and-after figure.

It is correct, and isolates its users as well. It only does the obvious thing everywhere: a context made of
dictionaries, an emitter with a set-up of its own for every request, a look into the registry every time, a database
session whether it is used or not, one lock that everybody needs to open a request and holds until the connection is
there, and every operation measured in detail.
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from reference_impl.agents import Agent, AgentRegistry, ChatAgent
from reference_impl.broker import Broker, make_broker
from reference_impl.connections import Connection, Connections, Event
from reference_impl.database import Database, UserSession
from reference_impl.emitters import KINDS
from reference_impl.export import gauges_of
from reference_impl.factory import AgentTimeout
from reference_impl.locks import Keyed
from reference_impl.metrics import Metrics
from reference_impl.settings import Settings, from_environment


class NaiveContext:
    """Who asks, in a dictionary of its own."""

    def __init__(self, user_id: str, metadata: Mapping[str, Any] | None = None, **given: str | None) -> None:
        if not isinstance(user_id, str) or not user_id.strip():
            raise ValueError(f"a request has a user: user_id={user_id!r} is none")
        self.ids = {
            name: given.get(f"{name}_id") or str(uuid.uuid4()) for name in ("request", "thread", "run", "trace")
        }
        self.data: dict[str, Any] = {"user": user_id, "created": datetime.now(UTC), "history": []}
        self.metadata = copy.deepcopy(dict(metadata or {}))

    @property
    def user_id(self) -> str:
        """Whose request it is."""
        return str(self.data["user"])

    @property
    def request_id(self) -> str:
        """Unique to this request."""
        return self.ids["request"]


class NaiveEmitter:
    """Sends the events of one request, with an encoder and a handler for each kind that are its own."""

    def __init__(self, context: NaiveContext, dispatch: Callable[[str, Event], int]) -> None:
        self.context = context
        self.dispatch = dispatch
        self.encoder = json.JSONEncoder(sort_keys=True, default=str)
        self.handlers = {kind: self._handler(kind) for kind in sorted(KINDS)}
        self.sent: list[Event] = []
        self.open = True

    def send(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to the user of the request."""
        if not self.open:
            raise RuntimeError(f"the emitter of {self.context.user_id} has been closed")
        if kind not in self.handlers:
            raise ValueError(f"there is no event of kind {kind!r}; there are {', '.join(self.handlers)}")
        self.handlers[kind](dict(data))

    def _handler(self, kind: str) -> Callable[[dict[str, Any]], None]:
        def handle(data: dict[str, Any]) -> None:
            event = json.loads(self.encoder.encode({**data, "kind": kind, "sequence": len(self.sent) + 1}))
            self.sent.append(event)
            self.dispatch(self.context.user_id, event)

        return handle


class NaiveRequest:
    """What one request may use."""

    def __init__(self, backend: NaiveBackend, context: NaiveContext, session: UserSession) -> None:
        self.backend = backend
        self.context: Any = context
        self.emitter = NaiveEmitter(context, backend.broker.dispatch)
        self.own_session = session
        self.is_open = True

    async def agent(self, name: str) -> Agent:
        """A new agent, bound to this request."""
        self._refuse_late()
        async with self.backend.measured("factory.agent_creation"):
            return self.backend.registry.recipe(name).make(self)

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to every inbox of this request's user."""
        self._refuse_late()
        async with self.backend.measured("event.dispatch"):
            self.emitter.send(kind, data)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[UserSession]:
        """The database session of this request, which stays open until its end."""
        self._refuse_late()
        yield self.own_session

    @asynccontextmanager
    async def turn(self, agent: str) -> AsyncIterator[None]:
        """The right of an agent to run: one of a conversation, so many of one user, for a limited time."""
        self._refuse_late()
        backend, user_id, limit_s = self.backend, self.context.user_id, self.backend.settings.agent_timeout_s
        deadline = asyncio.timeout(limit_s)
        try:
            async with (
                deadline,
                backend.threads.of((user_id, self.context.ids["thread"])),
                backend.limits.of(user_id),
            ):
                yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise AgentTimeout(f"{agent} of {user_id} did not end within {limit_s:g} s") from error

    def _refuse_late(self) -> None:
        if not self.is_open:
            raise RuntimeError(f"the request {self.context.request_id} is not open: it has ended")


class NaiveBackend:
    """A backend with many users, before any optimisation.

    Args:
        settings: the database and the limits; the switches are without effect.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Few details, so that they are all there after some hundred requests, and take no more memory from then on.
        self.metrics = Metrics(sample_rate=1.0, details=1000)
        self.registry = AgentRegistry(cache_size=0)
        self.registry.register("chat", ChatAgent)
        self.connections = Connections(settings.inbox_limit)
        self.broker: Broker = make_broker(settings.broker_url)
        self.database = Database(
            settings.database_url,
            lazy=False,
            lazy_start=False,
            pool_size=settings.database_pool_size,
            max_overflow=settings.database_max_overflow,
            record=self.metrics.record,
        )
        self.lock = asyncio.Lock()
        self.limits: Keyed[asyncio.Semaphore] = Keyed(lambda: asyncio.Semaphore(settings.agents_per_user))
        self.threads: Keyed[asyncio.Lock] = Keyed(asyncio.Lock)

    @property
    def agents(self) -> Sequence[str]:
        """The names of all agents."""
        return self.registry.names

    @property
    def gauges(self) -> Mapping[str, float]:
        """What is known besides the metrics."""
        figures = gauges_of(database=self.database.figures, broker=self.broker.figures)
        return {**figures, "sockets.open": len(self.connections)}

    async def start(self) -> None:
        """Begin to serve."""
        await self.database.start()
        try:
            await self.broker.start(self.connections.dispatch)
        except BaseException:
            await self.database.aclose()
            raise

    async def aclose(self) -> None:
        """Give everything back."""
        self.connections.close()
        try:
            await self.broker.aclose()
        finally:
            await self.database.aclose()

    @asynccontextmanager
    async def request(
        self,
        user_id: str,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[NaiveRequest]:
        """Open the scope of one request; everybody who opens one waits until the one before has its connection."""
        session = self.database.session(user_id)
        try:
            async with self.measured("factory.context_creation"), self.lock:
                await session.__aenter__()
                context = NaiveContext(user_id, metadata, thread_id=thread_id, run_id=run_id)
                request = NaiveRequest(self, context, session)
            try:
                yield request
            finally:
                request.is_open = request.emitter.open = False
        finally:
            # Without the lock: whoever has it may be waiting for this very connection.
            async with self.measured("factory.context_cleanup"):
                await session.aclose()

    def connect(self, user_id: str) -> Connection:
        """Let a user listen to its events."""
        return self.connections.connect(user_id)

    @asynccontextmanager
    async def measured(self, name: str) -> AsyncIterator[None]:
        """Measure an operation, in detail."""
        async with self.metrics.timed_operation(name, {"system": name.partition(".")[0]}, critical=True):
            yield


def create_backend() -> NaiveBackend:
    """The backend as the environment wants it (``REFERENCE_DATABASE_URL``)."""
    return NaiveBackend(from_environment())
