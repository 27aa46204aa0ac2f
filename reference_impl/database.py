"""The database: one engine, from its start to its end, and a session for each request."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import MetaData, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool

from reference_impl import postgres, sqlite
from reference_impl.lazy import Once
from reference_impl.opening import open_for_nobody
from reference_impl.sessions import OpenSession, OpenSessions, OwnSession, Record, UserSession, note_lending
from reference_impl.tables import Base, Note

__all__ = ["Base", "Database", "Note", "OpenSession", "PoolFigures", "UserSession"]


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """How connections and sessions are used.

    Attributes:
        active: connections that are lent.
        idle: connections that wait to be lent.
        created: connections that were ever opened.
        closed: those of them that were closed.
        peak: the most that were lent at the same time.
        sessions: sessions that took a connection and were closed.
        leaked: sessions that nobody closed before they were dropped; their connections came back all the same.
        lifetime_s: how long a session held its connection, on average; 0 before the first.
    """

    active: int
    idle: int
    created: int
    closed: int
    peak: int
    sessions: int
    leaked: int
    lifetime_s: float


class Database:
    """The engine and its sessions.

    Args:
        url: of SQLAlchemy, for aiosqlite, asyncpg or psycopg; None is a new SQLite file that is removed at the end.
        lazy: a session takes its connection when it is first used, and not when it is entered.
        lazy_start: connect and make tables when a session is first used, and not at the start.
        pool_size: connections that are kept.
        max_overflow: more that may be opened at need.
        record: is told what sessions and statements take, like ``Metrics.record``; None tells nobody.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        lazy: bool = True,
        lazy_start: bool = False,
        pool_size: int = 5,
        max_overflow: int = 10,
        record: Record | None = None,
    ) -> None:
        self._url = url
        self._lazy_start = lazy_start
        self._pool_size = pool_size
        self._max_overflow = max_overflow
        self._running = False
        self._made: AsyncEngine | None = None
        self._make = Once(self._connect)
        self._cleanup = AsyncExitStack()
        self._take_role = False
        self._sessions = OpenSessions(self._new_session, lazy=lazy, record=record or _nobody)
        self._live: set[DBAPIConnection] = set()
        self._created = self._closed = self._peak = 0

    async def start(self) -> None:
        """Connect and make the tables that are missing, unless that is to wait until it is needed.

        If it fails or is cancelled, nothing of it is left, and it may be tried again.
        """
        self._running = True
        if not self._lazy_start:
            try:
                await self._make()
            except BaseException:
                await self.aclose()
                raise

    async def aclose(self) -> None:
        """Close every session and every connection; what is still at work with one of them fails."""
        self._running = False
        await self._make.aclose()
        await self._sessions.end()
        self._made = None
        await self._cleanup.aclose()

    def session(self, user_id: str) -> UserSession:
        """A session for one request of a user.

        Raises:
            RuntimeError: the database has not been started.
        """
        if not self._running:
            raise RuntimeError(_NOT_RUNNING)
        return UserSession(self._sessions, user_id)

    @property
    def connect_s(self) -> float | None:
        """How long it took to connect and make tables; None before."""
        return self._make.seconds

    @property
    def engine(self) -> AsyncEngine:
        """The engine.

        Raises:
            RuntimeError: there is none yet.
        """
        if self._made is None:
            raise RuntimeError(_NOT_RUNNING)
        return self._made

    @property
    def pool(self) -> QueuePool:
        """The connections.

        Raises:
            RuntimeError: there is none yet.
        """
        return _pool(self.engine)

    @property
    def figures(self) -> PoolFigures:
        """How connections and sessions are used."""
        active, idle = (self.pool.checkedout(), self.pool.checkedin()) if self._made is not None else (0, 0)
        sessions = self._sessions
        lifetime_s = sessions.lent_s / sessions.ended if sessions.ended else 0.0
        return PoolFigures(
            active, idle, self._created, self._closed, self._peak, sessions.ended, sessions.leaked, lifetime_s
        )

    def open_sessions(self) -> Sequence[OpenSession]:
        """Sessions that hold a connection now, the oldest first: what should be empty when no request is open."""
        return self._sessions.named()

    def leaked_sessions(self) -> Sequence[OpenSession]:
        """The last hundred sessions that nobody closed before they were dropped."""
        return self._sessions.dropped()

    async def _new_session(self, user_id: str) -> AsyncSession:
        engine = self._made
        if engine is None:
            if not self._running:
                raise RuntimeError(_NOT_RUNNING)
            engine = await self._make()
        info = {"own": True, "user_id": user_id, "take_role": self._take_role}
        kind = _PostgresSession if engine.dialect.name == "postgresql" else _SqliteSession
        return AsyncSession(engine, sync_session_class=kind, expire_on_commit=False, info=info)

    async def _connect(self) -> AsyncEngine:
        async with AsyncExitStack() as undo:
            # Named, because SQLAlchemy 2.0.20 opens a new connection for every session on a SQLite file.
            engine = create_async_engine(
                self._url or _new_file(undo),
                poolclass=AsyncAdaptedQueuePool,
                pool_size=self._pool_size,
                max_overflow=self._max_overflow,
            )
            undo.push_async_callback(engine.dispose)
            kind = _KINDS.get(engine.dialect.name)
            if kind is None:
                raise ValueError(f"{engine.dialect.name} is not supported: use {' or '.join(_KINDS)}, which are tested")
            kind.listen(engine)
            self._watch(engine)
            open_for_nobody(engine)  # the last one, because once a connection is opened no more listener is asked
            self._take_role = await kind.make_tables(engine, Base.metadata)
            self._cleanup = undo.pop_all()
        self._made = engine
        return engine

    def _watch(self, engine: AsyncEngine) -> None:
        """Count what the pool does not; what is lent it knows best, for a cancelled checkout is checked in too."""
        pool = _pool(engine)

        def lent(*_: object) -> None:
            self._peak = max(self._peak, pool.checkedout())

        def created(connection: DBAPIConnection, _entry: object) -> None:
            self._live.add(connection)
            self._created += 1

        def closed(connection: DBAPIConnection, _entry: object) -> None:
            if connection in self._live:  # told twice of one that fails while it is closed
                self._live.remove(connection)
                self._closed += 1

        def may_open(*_: object) -> None:
            if not self._running:  # it waited in the pool while the database was closed
                raise RuntimeError(_NOT_RUNNING)

        listeners: Any = {"do_connect": may_open, "checkout": lent, "connect": created, "close": closed}
        for name, listener in listeners.items():
            event.listen(engine.sync_engine, name, listener)


class _Kind(Protocol):
    """What is different from one kind of database to the next."""

    def listen(self, engine: AsyncEngine) -> None:
        """Prepare every connection for many users."""

    async def make_tables(self, engine: AsyncEngine, metadata: MetaData) -> bool:
        """Make what is missing; whether transactions have to take a role."""


_KINDS: Mapping[str, _Kind] = {"postgresql": postgres, "sqlite": sqlite}


class _PostgresSession(OwnSession):
    """Every transaction of it is bound to its user."""


class _SqliteSession(OwnSession):
    """Every connection of it is noted to be its own."""


for _sessions in (_PostgresSession, _SqliteSession):
    note_lending(_sessions)
postgres.bind_transactions(_PostgresSession)
sqlite.bind_transactions(_SqliteSession)


def _nobody(_name: str, _seconds: float, **_more: object) -> None:
    """Is told, and does nothing."""


_NOT_RUNNING = "the database is not running: await start() first"


def _pool(engine: AsyncEngine) -> QueuePool:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool


def _new_file(undo: AsyncExitStack) -> str:
    # A database in memory has one connection for all sessions, which would share its transaction.
    folder = tempfile.TemporaryDirectory(prefix="reference_impl-")
    undo.callback(folder.cleanup)
    return f"sqlite+aiosqlite:///{Path(folder.name) / 'notes.db'}"
