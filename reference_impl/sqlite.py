"""What SQLite needs to serve many at once: it has no server, and keeps nobody apart."""

from __future__ import annotations

import asyncio
from time import monotonic

from sqlalchemy import Connection, MetaData, event, inspect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

_PATIENCE_S = 5.0
_PAUSE_S = 0.005


def listen(engine: AsyncEngine) -> None:
    """Let a second writer wait instead of failing."""
    event.listen(engine.sync_engine, "connect", _tune)


async def make_tables(engine: AsyncEngine, metadata: MetaData) -> bool:
    """Make the tables that are missing.

    Returns:
        False: transactions take no role.

    Raises:
        OperationalError: the file cannot be opened, or somebody kept it locked for seconds.
    """
    await _write_ahead(engine)
    async with engine.begin() as connection:
        await connection.run_sync(_make_missing, metadata)
    return False


async def _write_ahead(engine: AsyncEngine) -> None:
    """Let readers and a writer work at once; the file remembers it."""
    # Of two that change a new file's journal at once SQLite refuses one without the patience it has otherwise.
    deadline = monotonic() + _PATIENCE_S
    async with engine.connect() as connection:
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
