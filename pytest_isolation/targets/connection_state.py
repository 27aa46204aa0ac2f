"""What a database connection remembers of those who used it, read in one round trip.

Nothing is changed: the question is asked outside of any transaction, or not at all. On PostgreSQL names are qualified,
because a search path may have been left behind too. ``pg_settings`` takes half a millisecond and knows neither the role
nor custom settings: it is asked for the settings that are not usual, of a new connection and at the end of a scene.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from pytest_isolation.model import Lapse, Mishap
from pytest_isolation.users.lendings import Lending, Lendings

# What is wrong, in words, and with what value.
State = Mapping[str, str]

SETTING = "setting "
_UNBOUND = "unbound "
OPEN = "an open transaction"
_USUAL = (
    *("search_path", "TimeZone", "DateStyle", "IntervalStyle", "row_security", "session_replication_role"),
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "work_mem", "client_encoding"),
    *("default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"),
)
_POSTGRES = """
SELECT pg_catalog.json_build_object(
    'role', pg_catalog.current_setting('role'),
    'session authorization', session_user,
    'settings', (SELECT pg_catalog.json_object_agg(n, pg_catalog.current_setting(n, true))
        FROM pg_catalog.unnest(CAST({names} AS pg_catalog.text[])) n),{more}
    'temporary table', CASE WHEN pg_catalog.pg_my_temp_schema() <> 0 THEN (SELECT pg_catalog.json_agg(relname)
        FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind IN ('r', 'p', 'v'))
        END,
    'LISTEN', (SELECT pg_catalog.json_agg(c) FROM pg_catalog.pg_listening_channels() c),
    'cursor', (SELECT pg_catalog.json_agg(name) FROM pg_catalog.pg_cursors WHERE is_holdable),
    'prepared statement', (SELECT pg_catalog.json_agg(name) FROM pg_catalog.pg_prepared_statements WHERE from_sql),
    'advisory lock', (SELECT pg_catalog.json_agg(CASE objsubid
            WHEN 1 THEN ((CAST(classid AS bigint) << 32) | CAST(objid AS bigint))::text
            ELSE classid::text || ', ' || objid::text END)
        FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid())
)::text
"""
_MORE = """
    'more settings', (SELECT pg_catalog.json_object_agg(name, setting) FROM pg_catalog.pg_settings
        WHERE source = 'session' AND setting IS DISTINCT FROM reset_val
            AND name <> ALL(CAST({names} AS pg_catalog.text[]))),
    'unbound', (SELECT pg_catalog.json_object_agg(CAST(oid AS pg_catalog.regclass), current_user)
        FROM pg_catalog.pg_class WHERE relrowsecurity AND NOT pg_catalog.row_security_active(oid)),"""
_WITH_ASYNCPG, _MORE_WITH_ASYNCPG = (_POSTGRES.format(names="$1", more=m) for m in ("", _MORE.format(names="$1")))
_WITH_PSYCOPG, _MORE_WITH_PSYCOPG = (
    _POSTGRES.format(names="%(names)s", more=m) for m in ("", _MORE.format(names="%(names)s"))
)
_MANY = ("temporary table", "LISTEN", "cursor", "prepared statement", "advisory lock", "attached database")
_PRAGMAS = (
    *("foreign_keys", "query_only", "read_uncommitted", "recursive_triggers", "ignore_check_constraints"),
    *("busy_timeout", "locking_mode", "trusted_schema", "writable_schema", "reverse_unordered_selects"),
)
_SQLITE = f"""
SELECT json_object(
    'temporary table', (SELECT json_group_array(name) FROM temp.sqlite_master WHERE type IN ('table', 'view')),
    'attached database', (SELECT json_group_array(name) FROM pragma_database_list WHERE name NOT IN ('main', 'temp')),
    {", ".join(f"'PRAGMA {name}', (SELECT * FROM pragma_{name})" for name in _PRAGMAS)}
)
"""  # noqa: S608 # of constants


class Question(NamedTuple):
    """What is asked of a connection.

    Attributes:
        names: of custom settings.
        within: a transaction that is open is not somebody else's, and may be asked in.
        thorough: of all settings, and not only the usual ones.
    """

    names: Sequence[str] = ()
    within: bool = False
    thorough: bool = False


def is_open(driver: Any) -> bool:
    """A transaction is open; the driver knows without asking."""
    if hasattr(driver, "pgconn"):  # of psycopg
        return bool(driver.pgconn.transaction_status)
    flag = getattr(driver, "is_in_transaction", None) or getattr(driver, "in_transaction", False)
    return bool(flag() if callable(flag) else flag)


async def read_with_asyncpg(driver: Any, asked: Question) -> State:
    """What is in a connection of asyncpg."""
    if is_open(driver) and not asked.within:
        return {OPEN: ""}
    question = _MORE_WITH_ASYNCPG if asked.thorough else _WITH_ASYNCPG
    return _state(await driver.fetchval(question, [*_USUAL, *asked.names]))


async def read_with_psycopg_async(driver: Any, asked: Question) -> State:
    """The same of psycopg."""
    if is_open(driver) and not asked.within:
        return {OPEN: ""}
    with _outside(driver):
        async with _cursor(driver) as cursor:
            await cursor.execute(*_asked(asked), prepare=True)
            [said] = await cursor.fetchone()
    return _state(said)


def read_with_psycopg(driver: Any, asked: Question) -> State:
    """The same, without an event loop."""
    if is_open(driver) and not asked.within:
        return {OPEN: ""}
    with _outside(driver), _cursor(driver) as cursor:
        cursor.execute(*_asked(asked), prepare=True)
        [said] = cursor.fetchone()
    return _state(said)


def _asked(asked: Question) -> tuple[str, Mapping[str, object]]:
    return _MORE_WITH_PSYCOPG if asked.thorough else _WITH_PSYCOPG, {"names": [*_USUAL, *asked.names]}


def _cursor(driver: Any) -> Any:
    """One of the library's own: whatever the application, or we, have put in its place is not to hear of this."""
    from psycopg import AsyncConnection, AsyncCursor, Cursor
    from psycopg.rows import tuple_row

    kind: Any = AsyncCursor if isinstance(driver, AsyncConnection) else Cursor
    return kind(driver, row_factory=tuple_row)


@contextmanager
def _outside(driver: Any) -> Iterator[None]:
    """Let the question begin no transaction. ``set_autocommit`` does this and no more, but takes the lock for it."""
    before = driver._autocommit
    driver._autocommit = True
    try:
        yield
    finally:
        driver._autocommit = before


async def read_with_aiosqlite(driver: Any, asked: Question) -> State:
    """The same of aiosqlite."""
    if driver.in_transaction and not asked.within:
        return {OPEN: ""}
    cursor = await driver.cursor()
    try:
        cursor.row_factory = None
        await cursor.execute(_SQLITE)
        [said] = await cursor.fetchone()
    finally:  # or it keeps the file locked, if who is given the connection is cancelled now
        await cursor.close()
    return _state(said)


def read_with_sqlite(driver: Any, asked: Question) -> State:
    """The same of sqlite3."""
    if driver.in_transaction and not asked.within:
        return {OPEN: ""}
    with closing(driver.cursor()) as cursor:
        cursor.row_factory = None
        cursor.execute(_SQLITE)
        [said] = cursor.fetchone()
    return _state(said)


@lru_cache(maxsize=256)  # most of them say that there is nothing
def _state(said: str) -> State:
    return dict(_told(json.loads(said)))


def _told(said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """``{"role": "'x'"}``, ``{"temporary table notes": ""}``; what is at nothing is left out."""
    for what, value in said.items():
        if what == "settings":
            # A custom setting that was set once is '' for ever after.
            yield from ((name, f" = {text!r}") for name, text in value.items() if text)
        elif what == "more settings":
            yield from ((f"{SETTING}{name}", f" = {text!r}") for name, text in (value or {}).items())
        elif what == "unbound":
            yield from ((f"{_UNBOUND}{table}", role) for table, role in (value or {}).items())
        elif what in _MANY:
            names = json.loads(value) if isinstance(value, str) else value  # as SQLite's subqueries give it
            yield from ((f"{what} {name}", "") for name in names or ())
        elif value not in (None, "none"):
            yield what, f" {value!r}"


def left_in(lending: Lending, state: State) -> State:
    """What may be a borrower's doing of all that was read; which policies do not bind whom is none.

    Args:
        lending: the record of the pool, which remembers that.
        state: as it was read.
    """
    unbound = {what: role for what, role in state.items() if what.startswith(_UNBOUND)}
    lending.unbound.update((what.removeprefix(_UNBOUND), role) for what, role in unbound.items())
    return {what: value for what, value in state.items() if what not in unbound} if unbound else state


def accuse(
    lendings: Lendings,
    lending: Lending,
    thing: object,
    clean: dict[str, str],
    state: State,
    own: Collection[str] = (),
    given: bool = True,
    asked_for_all: bool = False,
) -> None:
    """Tell what the last borrower of a connection has left, or taken away, once.

    Args:
        lendings: of the test.
        lending: the record of the pool.
        thing: what stands for the connection there.
        clean: what was in it before the first user had it; it learns what has been told.
        state: what is in it now that it is lent again.
        own: what the application itself sets at each loan.
        given: somebody is given it; otherwise it lies in the pool at the end of a scene.
        asked_for_all: the state was read thoroughly.
    """
    own = own if asked_for_all else {*own, *(what for what in clean if what.startswith(SETTING))}
    left = {what: value for what, value in state.items() if clean.get(what) != value and what not in own}
    gone = {} if OPEN in state else {what: clean[what] for what in clean if what not in state and what not in own}
    last, now = lending.last(thing), lendings.now()
    if not (left or gone) or (last is not None and last.number is not None and last.number == now.number):
        return
    if last is not None and last.scene:
        found = [*(f"{k}{v}" for k, v in left.items()), *(f"no more {k}{v}" for k, v in gone.items())]
        lapse = Lapse.STATE if given else Lapse.LEFT_STATE
        lendings.tell(
            Mishap(
                lapse,
                lending.name,
                lending.name_of(thing),
                now.number,
                last.number,
                ", ".join(found),
                last.place,
                lendings.since(last),
            )
        )
    clean.update(left)
    for what in gone:
        del clean[what]


# Those of an async driver are awaited.
READERS: Mapping[str, Callable[[Any, Question], Any]] = {
    "asyncpg": read_with_asyncpg,
    "psycopg": read_with_psycopg,
    "psycopg_async": read_with_psycopg_async,
    "aiosqlite": read_with_aiosqlite,
    "pysqlite": read_with_sqlite,
}
