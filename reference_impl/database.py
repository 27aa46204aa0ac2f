"""The database: a session for each request, which knows its user and writes and reads nothing of anybody else."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from sqlalchemy import event, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, QueuePool

from reference_impl import postgres
from reference_impl.lazy import Once


class Base(DeclarativeBase):
    """All tables of the backend."""


class Note(Base):
    """Something that a user wrote."""

    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]


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


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that holds a connection.

    Attributes:
        user_id: whose it is.
        opened_at: file and line that used it first.
        age_s: for how long.
    """

    user_id: str
    opened_at: str
    age_s: float


class UserSession:
    """A database session of one request; every statement is bound to the request's user.

    It takes a connection when it is first used, so a request that never asks the database costs it nothing.

    Args:
        database: lends the connection.
        user_id: whose rows it reads and writes.
    """

    __slots__ = ("__weakref__", "_closed", "_database", "_opened_at", "_session", "_since", "_user_id")

    def __init__(self, database: Database, user_id: str) -> None:
        self._database = database
        self._user_id = user_id
        self._closed = False
        self._session: AsyncSession | None = None

    async def __aenter__(self) -> Self:
        if not self._database.lazy and self._session is None:
            await (await self._open()).connection()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._session is not None:
            self._database._dropped(self)

    async def aclose(self) -> None:
        """Give the connection back; a second time does nothing."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            self._database._returned(self)
            # Shielded, because a cancellation in between would lose the connection to the pool for good.
            await asyncio.shield(session.close())

    async def ping(self) -> None:
        """One round trip to the database."""
        session = self._session or await self._open()
        if not session.in_transaction():
            connection = await session.connection()
            if connection.dialect.name == "postgresql":
                return  # to begin a transaction is a round trip, which binds it to the user
        await session.execute(_PING)

    async def save(self, text: str) -> None:
        """Store a text of this user."""
        session = self._session or await self._open()
        session.add(Note(user_id=self._user_id, text=text))
        try:
            await session.commit()
        except BaseException:
            await session.rollback()
            raise

    async def load(self) -> Sequence[str]:
        """Every text of this user, oldest first."""
        mine = select(Note.text).where(Note.user_id == self._user_id).order_by(Note.id)
        session = self._session or await self._open()
        texts = (await session.scalars(mine)).all()
        await session.rollback()  # a reader that keeps its transaction open keeps writers waiting
        return texts

    async def orm(self) -> AsyncSession:
        """The session of SQLAlchemy itself, for what this class has no word for; it is closed with this one."""
        session = self._session or await self._open()
        session.info["own"] = False  # whoever has it may leave anything in the connection
        if session.in_transaction():
            (await session.connection()).info.clear()
        return session

    async def _open(self) -> AsyncSession:
        if self._closed:  # SQLAlchemy would silently begin anew, with a connection that nobody gives back
            raise RuntimeError("this session has been closed")
        engine = await self._database._engine()
        session = self._session = self._database._new_session(engine, self._user_id)
        self._since, self._opened_at = monotonic(), _caller()
        self._database._open.add(self)
        return session


_PING = text("select 1")


class Database:
    """The engine and its sessions.

    Args:
        url: of SQLAlchemy, for an async driver; None is a new SQLite file that is removed at the end.
        lazy: a session takes its connection when it is first used, and not when it is entered.
        lazy_start: connect and make tables when a session is first used, and not at the start.
        pool_size: connections that are kept.
        max_overflow: more that may be opened at need.

    Attributes:
        lazy: see above.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        lazy: bool = True,
        lazy_start: bool = False,
        pool_size: int = 5,
        max_overflow: int = 10,
    ) -> None:
        self.lazy = lazy
        self._url = url
        self._lazy_start = lazy_start
        self._pool_size = pool_size
        self._max_overflow = max_overflow
        self._running = False
        self._made: AsyncEngine | None = None
        self._make = Once(self._connect)
        self._cleanup = AsyncExitStack()
        self._take_role = False
        self._open: WeakSet[UserSession] = WeakSet()
        self._rescues: set[asyncio.Task[None]] = set()
        self._created = self._closed = self._peak = self._leaked = self._sessions = 0
        self._lent_s = 0.0

    async def start(self) -> None:
        """Connect and make the tables that are missing, unless that is to wait until it is needed."""
        self._running = True
        if not self._lazy_start:
            await self._make()

    async def aclose(self) -> None:
        """Close every connection."""
        self._running = False
        if self._rescues:
            await asyncio.wait(self._rescues)
        await self._make.aclose()
        self._made = None
        await self._cleanup.aclose()

    def session(self, user_id: str) -> UserSession:
        """A session for one request of a user.

        Raises:
            RuntimeError: the database has not been started.
        """
        if not self._running:
            raise RuntimeError(_NOT_RUNNING)
        return UserSession(self, user_id)

    @property
    def connect_s(self) -> float | None:
        """How long it took to connect and make tables; None before."""
        return self._make.seconds

    @property
    def pool(self) -> QueuePool:
        """The connections.

        Raises:
            RuntimeError: there is none yet.
        """
        if self._made is None:
            raise RuntimeError(_NOT_RUNNING)
        return _pool(self._made)

    @property
    def figures(self) -> PoolFigures:
        """How connections and sessions are used."""
        active, idle = (self.pool.checkedout(), self.pool.checkedin()) if self._made is not None else (0, 0)
        lifetime_s = self._lent_s / self._sessions if self._sessions else 0.0
        return PoolFigures(
            active, idle, self._created, self._closed, self._peak, self._sessions, self._leaked, lifetime_s
        )

    def open_sessions(self) -> Sequence[OpenSession]:
        """Sessions that hold a connection now, the oldest first: what should be empty when no request is open."""
        now = monotonic()
        held = (OpenSession(one._user_id, one._opened_at, now - one._since) for one in list(self._open))
        return sorted(held, key=lambda one: -one.age_s)

    async def _engine(self) -> AsyncEngine:
        if self._made is None:
            if not self._running:
                raise RuntimeError(_NOT_RUNNING)
            return await self._make()
        return self._made

    async def _connect(self) -> AsyncEngine:
        # Named, because SQLAlchemy 2.0.20 opens a new connection for every session on a SQLite file.
        engine = create_async_engine(
            self._url or self._new_file(),
            poolclass=AsyncAdaptedQueuePool,
            pool_size=self._pool_size,
            max_overflow=self._max_overflow,
        )
        self._cleanup.push_async_callback(engine.dispose)
        is_postgres = engine.dialect.name == "postgresql"
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _tune_sqlite)
        if is_postgres:
            postgres.reset_on_return(engine.sync_engine)
        self._count(engine)
        async with engine.begin() as connection:
            if is_postgres:
                await connection.run_sync(postgres.lock_schema)
            await connection.run_sync(Base.metadata.create_all)
            if is_postgres:
                self._take_role = await connection.run_sync(postgres.protect, Note.__tablename__)
        self._made = engine
        return engine

    def _count(self, engine: AsyncEngine) -> None:
        """Count what the pool does not; what is lent it knows best, for a cancelled checkout is checked in too."""
        pool = _pool(engine)

        def lent(*_: object) -> None:
            self._peak = max(self._peak, pool.checkedout())

        def created(*_: object) -> None:
            self._created += 1

        def closed(*_: object) -> None:
            self._closed += 1

        listeners: Any = {"checkout": lent, "connect": created, "close": closed}
        for name, listener in listeners.items():
            event.listen(engine.sync_engine, name, listener)

    def _new_session(self, engine: AsyncEngine, user_id: str) -> AsyncSession:
        info = {"own": True, "user_id": user_id, "take_role": self._take_role}
        kind = postgres.BoundSession if engine.dialect.name == "postgresql" else Session
        return AsyncSession(engine, sync_session_class=kind, expire_on_commit=False, info=info)

    def _returned(self, user_session: UserSession) -> None:
        self._open.discard(user_session)
        self._sessions += 1
        self._lent_s += monotonic() - user_session._since

    def _dropped(self, user_session: UserSession) -> None:
        """A session that nobody closed: count it, and have its connection returned as soon as the loop gets there."""
        self._leaked += 1
        session, user_session._session = user_session._session, None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop runs any more; the pool goes with it
            return
        if session is not None:
            task = loop.create_task(session.close())
            self._rescues.add(task)
            task.add_done_callback(self._rescues.discard)

    def _new_file(self) -> str:
        # A database in memory has one connection for all sessions, which would share its transaction.
        folder = tempfile.TemporaryDirectory(prefix="reference_impl-")
        self._cleanup.callback(folder.cleanup)
        return f"sqlite+aiosqlite:///{Path(folder.name) / 'notes.db'}"


_HERE = str(Path(__file__).parent)
_NOT_RUNNING = "the database is not running: await start() first"


def _pool(engine: AsyncEngine) -> QueuePool:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool


def _caller() -> str:
    """The file and line outside of this package that asked for a connection."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _tune_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Let readers and a writer work at once, and a second writer wait instead of failing."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=wal", "synchronous=normal", "busy_timeout=5000"):
        cursor.execute(f"pragma {pragma}")
    cursor.close()
