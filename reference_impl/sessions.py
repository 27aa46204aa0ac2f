"""The session of one request: it knows its user, is closed whatever happens, and is missed when nobody closes it."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import ref

from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.exc import IllegalStateChangeError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from reference_impl.tables import Note

T = TypeVar("T")
Record = Callable[..., None]

_PING = text("select 1")
_LENT_AT = "reference_impl.lent_at"
_CLOSED = "this session has been closed"
_DROPPED = f"{_CLOSED}, because nobody kept it: keep it for as long as what its orm() gave"
_ENDED = f"{_CLOSED} with its database"

_HERE = str(Path(__file__).parent)
_NAMES_KEPT = 100
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that holds a connection, or held it until it was dropped.

    Attributes:
        user_id: whose it is.
        opened_at: file and line that used it first.
        age_s: for how long.
    """

    user_id: str
    opened_at: str
    age_s: float


class OwnSession(Session):
    """SQLAlchemy's session, but once it is closed for good it says so, instead of taking a connection anew."""

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """Asked before every statement."""
        if (refusal := self.info.get("refusal")) is not None:
            raise RuntimeError(refusal)
        return super().get_bind(*args, **options)


class UserSession:
    """A database session of one request; every statement is bound to the request's user.

    It takes a connection when it is first used, so a request that never asks the database costs it nothing.

    Args:
        sessions: lends the connection.
        user_id: whose rows it reads and writes.
    """

    __slots__ = ("__weakref__", "_refusal", "_session", "_sessions", "_user_id")

    def __init__(self, sessions: OpenSessions, user_id: str) -> None:
        self._sessions = sessions
        self._user_id = user_id
        self._refusal: str | None = None
        self._session: AsyncSession | None = None

    async def __aenter__(self) -> Self:
        if not self._sessions.lazy and self._session is None:
            try:
                await self._timed(_take)
            except BaseException:
                await self.aclose()  # nobody else will: the block is not entered
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the connection back; a second time does nothing."""
        if self._refusal is None:
            self._refusal = _CLOSED
        session, self._session = self._session, None
        if session is not None:
            await self._sessions.close(self, session)

    async def ping(self) -> None:
        """One round trip to the database."""
        await self._timed(_ping)

    async def save(self, text: str) -> None:
        """Store a text of this user."""

        async def save(session: AsyncSession) -> None:
            session.add(Note(user_id=self._user_id, text=text))
            try:
                await session.commit()
            except BaseException:
                await session.rollback()
                raise

        await self._timed(save)

    async def load(self) -> Sequence[str]:
        """Every text of this user, oldest first."""

        async def load(session: AsyncSession) -> Sequence[str]:
            mine = select(Note.text).where(Note.user_id == self._user_id).order_by(Note.id)
            texts = (await session.scalars(mine)).all()
            await session.rollback()  # a reader that keeps its transaction open keeps writers waiting
            return texts

        return await self._timed(load)

    async def orm(self) -> AsyncSession:
        """The session of SQLAlchemy itself, for what this class has no word for; it is closed with this one."""
        session = self._session or await self._open()
        session.info["own"] = False  # whoever has it may leave anything in the connection
        if session.in_transaction():
            (await session.connection()).info.clear()
        return session

    async def _timed(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Work with the session, and tell what it took to get a connection, and what the statements took."""
        begun, lent_at, failure = perf_counter(), None, None
        try:
            session = self._session or await self._open()
            session.info[_LENT_AT] = begun if session.in_transaction() else None
            try:
                return await work(session)
            finally:
                lent_at = session.info[_LENT_AT]
        except BaseException as error:
            failure = type(error)
            raise
        finally:
            self._sessions.tell(begun, lent_at, None if work is _take else perf_counter(), failure)

    async def _open(self) -> AsyncSession:
        made = None if self._refusal else await self._sessions.make(self._user_id)
        if self._refusal is not None:  # SQLAlchemy would silently begin anew, with a connection that nobody gives back
            raise RuntimeError(self._refusal)
        if self._session is None and made is not None:
            self._session = made
            self._sessions.add(self, made)
        assert self._session is not None
        return self._session


async def _take(session: AsyncSession) -> None:
    await session.connection()


async def _ping(session: AsyncSession) -> None:
    if not session.in_transaction():
        connection = await session.connection()
        if connection.dialect.name == "postgresql":
            return  # to begin a transaction is a round trip, which binds it to the user
    await session.execute(_PING)


def note_lending(sessions: type[Session]) -> None:
    """Have these sessions note when they are given a connection, before anything is said over it."""
    event.listen(sessions, "after_begin", _note_lending)


def _note_lending(session: Session, *_: object) -> None:
    session.info[_LENT_AT] = perf_counter()


@dataclass(frozen=True, slots=True)
class _Held:
    """What is known of a session that has been used."""

    session: AsyncSession
    user_id: str
    opened_at: str
    since: float
    loop: asyncio.AbstractEventLoop

    def named(self, now: float) -> OpenSession:
        return OpenSession(self.user_id, self.opened_at, now - self.since)


class OpenSessions:
    """The sessions that have been used, until they are closed.

    What holds the connection is kept here, and not by the user's session alone. So the collector, which may come in
    any thread and finds sessions in reference cycles too, never gets at a connection: it takes the user's session
    only, and the connection is given back as soon as the loop gets there.

    Args:
        make: makes a session of SQLAlchemy for a user.
        lazy: a session takes its connection when it is first used, and not when it is entered.
        record: is told what it took to get a connection (``database.session``) and what statements took
            (``database.query``): the name, the seconds, and ``error=`` what it was ended by.

    Attributes:
        make: see above.
        lazy: see above.
        ended: how many were closed, in whatever way.
        leaked: how many of them nobody closed before they were dropped.
        lent_s: for how long those that were closed held a connection, together.
    """

    def __init__(self, make: Callable[[str], Awaitable[AsyncSession]], *, lazy: bool, record: Record) -> None:
        self.make = make
        self._record = record
        self.lazy = lazy
        self.ended = self.leaked = 0
        self.lent_s = 0.0
        self._held: dict[ref[UserSession], _Held] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._dropped: deque[OpenSession] = deque(maxlen=_NAMES_KEPT)

    def tell(self, begun: float, lent_at: float | None, ended: float | None, error: type[BaseException] | None) -> None:
        """Tell what one use of a session took.

        Args:
            begun: when it began.
            lent_at: when it was given a connection; None if it got none, and ``begun`` if it had one before.
            ended: when its statements ended; None if it had none.
            error: what it was ended by.
        """
        if lent_at is None:
            self._record("database.session", perf_counter() - begun, error=error)
            return
        if lent_at != begun:
            self._record("database.session", lent_at - begun)
        if ended is not None:
            self._record("database.query", ended - lent_at, error=error)

    def named(self) -> Sequence[OpenSession]:
        """Those that hold a connection, the oldest first."""
        now = monotonic()
        return sorted((held.named(now) for held in list(self._held.values())), key=lambda one: -one.age_s)

    def dropped(self) -> Sequence[OpenSession]:
        """The last hundred that nobody closed."""
        return list(self._dropped)

    def add(self, user_session: UserSession, session: AsyncSession) -> None:
        """Keep a session that is now used."""
        held = _Held(session, user_session._user_id, _caller(), monotonic(), asyncio.get_running_loop())
        self._held[ref(user_session, self._on_dropped)] = held

    async def close(self, user_session: UserSession, session: AsyncSession) -> None:
        """Give the connection of a session back."""
        self._remove(ref(user_session), _CLOSED)
        if session.in_transaction():
            # Shielded, because a cancellation in between would lose the connection to the pool for good.
            await asyncio.shield(self._start(session.close()))
        else:
            session.sync_session.close()  # it holds no connection, so there is nothing to wait for

    async def end(self) -> None:
        """Close all; their connections are closed, and a statement that is at work with one of them fails."""
        for owner, held in list(self._held.items()):
            if (user_session := owner()) is not None:
                user_session._refusal, user_session._session = _ENDED, None
            self._remove(owner, _ENDED)
            self._start(_invalidate(held.session))
        if self._closing:
            await asyncio.wait(self._closing)

    def _remove(self, owner: ref[UserSession], refusal: str) -> _Held:
        held = self._held.pop(owner)
        held.session.info["refusal"] = refusal
        self.ended += 1
        self.lent_s += monotonic() - held.since
        return held

    def _start(self, closing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(closing, context=Context())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def _on_dropped(self, owner: ref[UserSession]) -> None:
        """In any thread, between any two instructions: nothing more than to tell the loop."""
        held = self._held.get(owner)
        if held is not None:
            with suppress(RuntimeError):  # the loop is closed, and the pool went with it
                held.loop.call_soon_threadsafe(self._take_back, owner, context=Context())

    def _take_back(self, owner: ref[UserSession]) -> None:
        if owner not in self._held:  # the database was closed first
            return
        held = self._remove(owner, _DROPPED)
        self.leaked += 1
        self._dropped.append(held.named(monotonic()))
        self._start(held.session.close())


async def _invalidate(session: AsyncSession) -> None:
    while True:
        try:
            await session.invalidate()
        except IllegalStateChangeError:  # it is just being given a connection, or refused one
            await asyncio.sleep(_PAUSE_S)
        else:
            return


def _caller() -> str:
    """The file and line outside of this package that asked for a connection."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
