"""What PostgreSQL adds: rows that only their user sees, and connections that forget who used them.

Every transaction begins with ``set_config('app.user_id', …, true)``, which ends with it, and row-level security shows
and accepts only rows of that user. Superusers pass by every policy, so under one of them a transaction also takes the
role ``isolation_app``, again for itself only.

A transaction's end leaves much behind in a session: a role, settings, temporary tables, locks, LISTEN, cursors, the
last number of a sequence. What the pool does by default (a rollback) takes none of it away, and DISCARD ALL takes away
the prepared statements that asyncpg relies on. So a connection that is returned is reset statement by statement.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cache
from typing import Any

from sqlalchemy import Connection, MetaData, Table, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState
from sqlalchemy.util import await_only

ROLE = "isolation_app"

# Two replicas that start at once must not both make the tables; any number that nobody else takes.
_LOCK = 7_717_001

_EVERYTHING = (
    "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; "
    "SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)
_NUMBERS = "DISCARD SEQUENCES"

# Noted with a connection: the statements that make it forget its user. Without a note that takes all of them.
_FORGET = "reference_impl.forget"

_PATIENCE_S = 2.0


async def make_tables(engine: AsyncEngine, metadata: MetaData) -> bool:
    """Make what is missing: tables, and for each with a column ``user_id`` a policy that hides the rows of others.

    What is there is left as it is, so that a start neither waits for those at work nor needs the rights of an owner.

    Args:
        engine: as a role that may make what is missing.
        metadata: the tables, in any schema.

    Returns:
        The connecting role passes by every policy, so that transactions have to take ``ROLE``.
    """
    async with engine.begin() as connection:
        return await connection.run_sync(_make_missing, metadata)


def _make_missing(connection: Connection, metadata: MetaData) -> bool:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    metadata.create_all(connection)
    for table in metadata.sorted_tables:
        if "user_id" in table.columns:
            _protect(connection, _name(connection, table))
    passes_by = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    if not connection.scalar(text(passes_by)):
        return False
    _make_role(connection)
    for table in metadata.sorted_tables:
        _open_to_role(connection, _name(connection, table))
    return True


def _name(connection: Connection, table: Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


def _protect(connection: Connection, table: str) -> None:
    """Have a table show and accept only rows of the user for whom a transaction works."""
    state = """
        SELECT relrowsecurity, relforcerowsecurity,
            EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polname = 'own_rows')
        FROM pg_class WHERE oid = to_regclass(:name)
    """
    is_enabled, is_forced, has_policy = connection.execute(text(state), {"name": table}).one()
    if not is_enabled:
        connection.execute(text(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))
    if not is_forced:
        connection.execute(text(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"))
    if not has_policy:
        mine = "user_id = nullif(current_setting('app.user_id', true), '')"
        connection.execute(text(f"CREATE POLICY own_rows ON {table} USING ({mine}) WITH CHECK ({mine})"))


def _make_role(connection: Connection) -> None:
    if not connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": ROLE}):
        _by_one_of_all(connection, f"CREATE ROLE {ROLE} NOLOGIN")
    version = connection.dialect.server_version_info
    right = "SET" if version is not None and version >= (16,) else "MEMBER"
    may_take = "SELECT pg_has_role(current_user, :role, :right)"
    if not connection.scalar(text(may_take), {"role": ROLE, "right": right}):
        _by_one_of_all(connection, f"GRANT {ROLE} TO current_user")


def _by_one_of_all(connection: Connection, statement: str) -> None:
    """Roles belong to all databases of a server, and the lock to one: from another somebody may just do the same."""
    done = "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL"
    connection.execute(text(f"DO $$ BEGIN {statement}; {done}; END $$"))


def _open_to_role(connection: Connection, table: str) -> None:
    """Grant the role what it lacks: its rows are the policy's business."""
    state = """
        SELECT quote_ident(nspname), has_schema_privilege(:role, n.oid, 'USAGE'),
            (SELECT bool_and(has_table_privilege(:role, c.oid, r)) FROM unnest(string_to_array(:rights, ', ')) r)
        FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = to_regclass(:name)
    """
    of_table, rights = {"name": table, "role": ROLE}, "SELECT, INSERT, UPDATE, DELETE"
    schema, may_enter, may_use = connection.execute(text(state), {**of_table, "rights": rights}).one()
    if not may_enter:
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {ROLE}"))
    if not may_use:
        connection.execute(text(f"GRANT {rights} ON {table} TO {ROLE}"))
    closed_sequences = """
        SELECT CAST(CAST(s.oid AS regclass) AS text) FROM pg_depend JOIN pg_class s ON s.oid = objid
        WHERE refobjid = to_regclass(:name) AND deptype = 'a'
            AND CASE relkind WHEN 'S' THEN NOT has_sequence_privilege(:role, s.oid, 'USAGE') END
    """
    for sequence in connection.scalars(text(closed_sequences), of_table).all():
        connection.execute(text(f"GRANT USAGE ON SEQUENCE {sequence} TO {ROLE}"))


def bind_transactions(sessions: type[Session]) -> None:
    """Bind every transaction of these sessions to ``info["user_id"]``.

    ``info["take_role"]``: the connecting role passes by every policy. ``info["own"]``: only statements of this
    package run in it, which leave nothing in the connection but the last number of a sequence.
    """
    event.listen(sessions, "after_begin", _bind)
    event.listen(sessions, "before_flush", _note_numbers)


def _bind(session: Session, _transaction: object, connection: Connection) -> None:
    info = session.info
    if info["own"]:
        connection.info[_FORGET] = ""
    # Straight to the driver: SQLAlchemy would take longer to look at the statement than PostgreSQL to execute it.
    mark = "$1" if connection.dialect.driver == "asyncpg" else "%s"
    role = f", set_config('role', '{ROLE}', true)" if info["take_role"] else ""
    connection.exec_driver_sql(f"SELECT set_config('app.user_id', {mark}, true){role}", (info["user_id"],))


def _note_numbers(session: Session, *_: object) -> None:
    """An insert draws a number, also if it fails; lastval() would tell it to the next user."""
    notes = session.connection().info
    if notes.get(_FORGET) == "":
        notes[_FORGET] = _NUMBERS


def listen(engine: AsyncEngine) -> None:
    """Have every connection forget who used it, when it is returned to the pool; lend none that has ended there.

    A connection on which only statements of this package ran has little or nothing to forget but its transaction;
    whoever took it in another way, or handed it on, may have left anything.
    """
    is_asyncpg = engine.dialect.driver == "asyncpg"
    forget = _forget_with_asyncpg if is_asyncpg else _forget_with_psycopg
    if is_asyncpg:
        event.listen(engine.sync_engine, "do_connect", _use_own_class)
    else:
        event.listen(engine.sync_engine, "close", _interrupt)
    has_ended = _asyncpg_has_ended if is_asyncpg else _psycopg_has_ended

    @event.listens_for(engine.sync_engine, "checkout")
    def _refuse_ended(connection: Any, _entry: ConnectionPoolEntry, _proxy: object) -> None:
        if has_ended(connection.driver_connection):
            raise DisconnectionError("it has ended while it was in the pool")  # so the pool makes another one

    @event.listens_for(engine.sync_engine, "reset")
    def _reset(connection: DBAPIConnection, entry: ConnectionPoolEntry, state: PoolResetState) -> None:
        if state.terminate_only:  # it is thrown away, without a word to the server
            return
        connection.rollback()
        forget(connection, entry.info.get(_FORGET, _EVERYTHING))
        entry.info.clear()


def _use_own_class(_dialect: Dialect, _entry: object, _address: object, options: dict[str, Any]) -> None:
    options["connection_class"] = _own_class()


@cache
def _own_class() -> type:
    """Of a connection of asyncpg whose ``reset()`` executes what we want in the round trip that it takes anyway."""
    import asyncpg

    return type(
        "ForgetfulConnection", (asyncpg.Connection,), {"__slots__": (), "get_reset_query": lambda _: _EVERYTHING}
    )


def _forget_with_asyncpg(connection: Any, statements: str) -> None:
    """In one round trip, and another one to end a transaction that SQLAlchemy knows nothing of."""
    if statements == _EVERYTHING or connection.driver_connection.is_in_transaction():
        connection.run_async(lambda driver: driver.reset())  # its callbacks as well
    elif statements:
        connection.run_async(lambda driver: driver.execute(statements))


def _forget_with_psycopg(connection: Any, statements: str) -> None:
    """In one round trip, outside of any transaction."""
    if not statements:
        return
    before = connection.autocommit
    connection.autocommit = True
    try:
        connection.execute(statements)
    finally:
        connection.autocommit = before


def _asyncpg_has_ended(driver: Any) -> bool:
    """Its transport has told it."""
    return bool(driver.is_closed())


def _psycopg_has_ended(driver: Any) -> bool:
    """It learns of that when it reads: first what the server has said at the end, and then nothing any more."""
    import psycopg

    try:
        driver.pgconn.consume_input()
        driver.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return False


def _interrupt(connection: Any, _entry: ConnectionPoolEntry) -> None:
    """Stop the statement of a connection that is closed in the midst of it; asyncpg does so by itself."""
    driver = connection.driver_connection
    if driver.info.transaction_status.name == "ACTIVE":
        await_only(_stop(driver))


async def _stop(driver: Any) -> None:
    await asyncio.to_thread(driver.cancel)
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S), driver.lock:  # whoever waits for the statement learns of it first
            pass
