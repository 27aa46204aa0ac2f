"""What SQLite needs to serve many at once: it has no server, and keeps nobody apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from threading import Thread
from time import monotonic
from typing import Any

import aiosqlite
from sqlalchemy import Connection, Dialect, Engine, MetaData, event, inspect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState
from sqlalchemy.util import await_only

_PATIENCE_S = 5.0
_PAUSE_S = 0.005
_ENDING_S = 1.0

# Noted with a connection: only statements of this package have run on it since it was lent.
_OWN = "reference_impl.own"


def listen(engine: AsyncEngine) -> None:
    """Let a second writer wait instead of failing, and let the engine end only when its threads have.

    A connection that failed to open, or whose work was cancelled, is only told to end: its thread may want to answer
    when the event loop is closed already.
    """
    made: set[aiosqlite.Connection] = set()

    def connect(*address: Any, **options: Any) -> aiosqlite.Connection:
        made.difference_update([other for other in made if not _thread(other).is_alive()])
        connection = aiosqlite.connect(*address, **options)
        _thread(connection).daemon = True  # as SQLAlchemy has it: nobody waits for one that was forgotten
        made.add(connection)
        return connection

    def by_hand(_dialect: Dialect, _entry: ConnectionPoolEntry, _address: list[Any], options: dict[str, Any]) -> None:
        options["async_creator_fn"] = connect

    def disposed(_engine: Engine) -> None:
        await_only(_ended([_thread(connection) for connection in made if not connection._running]))

    event.listen(engine.sync_engine, "do_connect", by_hand)
    event.listen(engine.sync_engine, "connect", _tune)
    event.listen(engine.sync_engine, "engine_disposed", disposed)
    event.listen(engine.sync_engine, "reset", _reset)


def bind_transactions(sessions: type[Session]) -> None:
    """Note with every connection of these sessions whether only statements of this package run on it.

    ``info["own"]`` of the session says so; they leave nothing in a connection but the number of the last new row.
    """
    event.listen(sessions, "after_begin", _note_own)


def _note_own(session: Session, _transaction: object, connection: Connection) -> None:
    if session.info["own"]:
        connection.info[_OWN] = True


def _reset(_connection: DBAPIConnection, entry: ConnectionPoolEntry, _state: PoolResetState) -> None:
    """Have a connection forget who used it.

    Whoever had it in their own hands may have left anything: temporary tables, attached files, pragmas, functions.
    SQLite has no statement that takes all of it away, but to open a file again is cheap.
    """
    if not entry.info.pop(_OWN, False):
        entry.invalidate(soft=True)  # it is opened anew when it is next lent
    entry.info.clear()


def _thread(connection: aiosqlite.Connection) -> Thread:
    # The connection itself, before aiosqlite 0.22.
    return connection if isinstance(connection, Thread) else connection._thread


async def _ended(threads: Sequence[Thread]) -> None:
    deadline = monotonic() + _ENDING_S
    while any(thread.is_alive() for thread in threads) and monotonic() < deadline:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(_PAUSE_S / 10)


async def make_tables(engine: AsyncEngine, metadata: MetaData) -> bool:
    """Make the tables that are missing.

    Returns:
        False: transactions take no role.

    Raises:
        OperationalError: the file cannot be opened, or somebody kept it locked for seconds.
    """
    await _write_ahead(engine)
    async with engine.begin() as connection:
        (await connection.get_raw_connection()).info[_OWN] = True
        await connection.run_sync(_make_missing, metadata)
    return False


async def _write_ahead(engine: AsyncEngine) -> None:
    """Let readers and a writer work at once; the file remembers it."""
    # Of two that change a new file's journal at once SQLite refuses one without the patience it has otherwise.
    deadline = monotonic() + _PATIENCE_S
    async with engine.connect() as connection:
        (await connection.get_raw_connection()).info[_OWN] = True
        while True:
            try:
                await connection.exec_driver_sql("pragma journal_mode=wal")
            except OperationalError as error:
                if "locked" not in str(error) or monotonic() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                return


def _make_missing(connection: Connection, metadata: MetaData) -> None:
    if metadata.tables.keys() <= set(inspect(connection).get_table_names()):
        return
    connection.exec_driver_sql("begin immediate")  # of several that start at once one makes them, the others wait
    metadata.create_all(connection)


def _tune(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute(f"pragma busy_timeout={_PATIENCE_S * 1000:.0f}")
    cursor.execute("pragma synchronous=normal")
    cursor.close()
