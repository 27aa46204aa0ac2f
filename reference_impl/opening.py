"""How a connection is opened: on nobody's behalf, and never by half."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

from sqlalchemy import Dialect, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only, greenlet_spawn


def open_for_nobody(engine: AsyncEngine) -> None:
    """Have an engine open its connections in an empty Context, and close one whose opener was cancelled meanwhile.

    A connection outlives the request that happened to need it first. What its driver calls back runs in the Context
    in which it was opened, and keeps alive whatever that holds.
    """
    event.listen(engine.sync_engine, "do_connect", _connect)


def _connect(dialect: Dialect, _entry: ConnectionPoolEntry, address: list[Any], options: dict[str, Any]) -> Any:
    return await_only(_open(dialect, address, options))


async def _open(dialect: Dialect, address: list[Any], options: dict[str, Any]) -> DBAPIConnection:
    work = greenlet_spawn(dialect.connect, *address, **options)
    opening = asyncio.get_running_loop().create_task(work, context=Context())
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        if dialect.name != "sqlite":  # whose driver would lose the file that its thread is about to open
            opening.cancel()
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:
            await greenlet_spawn(opening.result().close)
        del opening  # psycopg's socket is held by the traceback in it, and by nothing else
        raise
