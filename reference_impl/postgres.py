"""What PostgreSQL adds: rows that only their user sees, and connections that forget who used them.

Every transaction begins with ``set_config('app.user_id', …, true)``, which ends with it, and row-level security shows
and accepts only rows of that user. Superusers pass by every policy, so under one of them a transaction also takes the
role ``isolation_app``, again for itself only.

A transaction's end leaves much behind in a session: a role, settings, temporary tables, locks, LISTEN, cursors. What
the pool does by default (a rollback) takes none of it away, and DISCARD ALL takes away the prepared statements that
asyncpg relies on. So a connection that is returned is reset statement by statement.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

ROLE = "isolation_app"

# Two replicas that start at once must not both make the tables; any number that nobody else takes.
_LOCK = 7_717_001

_RESET = (
    "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; "
    "SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)


def lock_schema(connection: Connection) -> None:
    """Wait until no other replica makes tables; until the transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def protect(connection: Connection, table: str) -> bool:
    """Have a table show and accept only rows of the user for whom a transaction works.

    Args:
        connection: in a transaction that holds the lock of ``lock_schema``.
        table: it has a column ``user_id``.

    Returns:
        The connecting role passes by every policy, so that transactions have to take ``ROLE``.
    """
    mine = "user_id = nullif(current_setting('app.user_id', true), '')"
    for statement in (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"DROP POLICY IF EXISTS own_rows ON {table}",
        f"CREATE POLICY own_rows ON {table} USING ({mine}) WITH CHECK ({mine})",
    ):
        connection.execute(text(statement))
    passes_by = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    if not connection.scalar(text(passes_by)):
        return False
    if not connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": ROLE}):
        connection.execute(text(f"CREATE ROLE {ROLE} NOLOGIN"))
    for statement in (
        f"GRANT {ROLE} TO current_user",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {ROLE}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {ROLE}",
    ):
        connection.execute(text(statement))
    return True


class BoundSession(Session):
    """A session whose every transaction is bound to ``info["user_id"]``.

    ``info["take_role"]``: the connecting role passes by every policy. ``info["own"]``: only statements of this
    package run in it, which leave nothing in the connection.
    """


@event.listens_for(BoundSession, "after_begin")
def _bind(session: Session, _transaction: object, connection: Connection) -> None:
    info = session.info
    connection.info[_CLEAN] = info["own"]
    # Straight to the driver: SQLAlchemy would take longer to look at the statement than PostgreSQL to execute it.
    mark = "$1" if connection.dialect.driver == "asyncpg" else "%s"
    role = f", set_config('role', '{ROLE}', true)" if info["take_role"] else ""
    connection.exec_driver_sql(f"SELECT set_config('app.user_id', {mark}, true){role}", (info["user_id"],))


def reset_on_return(engine: Engine) -> None:
    """Have every connection forget who used it, when it is returned to the pool.

    A connection on which only statements of this package ran has nothing to forget but its transaction; whoever took
    it in another way, or handed it on, may have left anything.
    """

    @event.listens_for(engine, "reset")
    def _reset(connection: DBAPIConnection, entry: ConnectionPoolEntry, state: PoolResetState) -> None:
        if state.terminate_only:  # it is thrown away, without a word to the server
            return
        connection.rollback()
        if not entry.info.get(_CLEAN):
            _forget(connection)
        entry.info.clear()


_CLEAN = "reference_impl.clean"


def _forget(connection: Any) -> None:
    """In one round trip, outside of any transaction."""
    driver = connection.driver_connection
    if hasattr(driver, "reload_schema_state"):  # asyncpg, behind the adapter that waits for it
        connection.run_async(lambda raw: raw.execute(_RESET))
        return
    before = connection.autocommit
    connection.autocommit = True
    try:
        connection.execute(_RESET)
    finally:
        connection.autocommit = before
