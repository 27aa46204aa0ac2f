"""The database: a session for each request, which knows its user and writes and reads nothing of anybody else."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import event, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, QueuePool

_NOT_RUNNING = "the database is not running: await start() first"


class Base(DeclarativeBase):
    """All tables of the backend."""


class Note(Base):
    """Something that a user wrote."""

    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]


class UserSession:
    """A database session of one request; every statement is bound to the request's user.

    A connection is taken from the pool by the first statement, so a request that never asks the database costs it
    nothing.

    Args:
        session: of SQLAlchemy.
        user_id: whose rows it reads and writes.
    """

    __slots__ = ("_closed", "_session", "_user_id")

    def __init__(self, session: AsyncSession, user_id: str) -> None:
        self._session = session
        self._user_id = user_id
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the connection back; a second time does nothing."""
        self._closed = True
        # Shielded, because a cancellation in between would lose the connection to the pool for good.
        await asyncio.shield(self._session.close())

    async def ping(self) -> None:
        """One round trip to the database."""
        await self._open().execute(text("select 1"))

    async def save(self, text: str) -> None:
        """Store a text of this user."""
        session = self._open()
        session.add(Note(user_id=self._user_id, text=text))
        await session.commit()

    async def load(self) -> Sequence[str]:
        """Every text of this user, oldest first."""
        mine = select(Note.text).where(Note.user_id == self._user_id).order_by(Note.id)
        session = self._open()
        texts = (await session.scalars(mine)).all()
        await session.rollback()  # a reader that keeps its transaction open keeps writers waiting
        return texts

    def _open(self) -> AsyncSession:
        if self._closed:  # SQLAlchemy would silently begin anew, with a connection that nobody gives back
            raise RuntimeError("this session has been closed")
        return self._session


class Database:
    """The engine and its sessions.

    Args:
        url: of SQLAlchemy, for an async driver; None is a new SQLite file that is removed at the end.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._cleanup = AsyncExitStack()
        self._engine: AsyncEngine | None = None
        self._sessions: async_sessionmaker[AsyncSession] | None = None

    async def start(self) -> None:
        """Connect, and make the tables that are missing."""
        # Named, because SQLAlchemy 2.0.20 opens a new connection for every session on a SQLite file.
        engine = create_async_engine(self._url or self._new_file(), poolclass=AsyncAdaptedQueuePool)
        self._cleanup.push_async_callback(engine.dispose)
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _tune_sqlite)
        await _make_tables(engine)
        self._engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def aclose(self) -> None:
        """Close every connection."""
        self._engine = self._sessions = None
        await self._cleanup.aclose()

    @property
    def pool(self) -> QueuePool:
        """The connections."""
        if self._engine is None:
            raise RuntimeError(_NOT_RUNNING)
        assert isinstance(self._engine.pool, QueuePool)
        return self._engine.pool

    def session(self, user_id: str) -> UserSession:
        """A session for one request of a user.

        Raises:
            RuntimeError: the database has not been started.
        """
        if self._sessions is None:
            raise RuntimeError(_NOT_RUNNING)
        return UserSession(self._sessions(), user_id)

    def _new_file(self) -> str:
        # A database in memory has one connection for all sessions, which would share its transaction.
        folder = tempfile.TemporaryDirectory(prefix="reference_impl-")
        self._cleanup.callback(folder.cleanup)
        return f"sqlite+aiosqlite:///{Path(folder.name) / 'notes.db'}"


async def _make_tables(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


def _tune_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Let readers and a writer work at once, and a second writer wait instead of failing."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=wal", "synchronous=normal", "busy_timeout=5000"):
        cursor.execute(f"pragma {pragma}")
    cursor.close()
