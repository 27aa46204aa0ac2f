"""Hears every statement that a connection of PostgreSQL executes, whoever executes it, or knows that it cannot.

psycopg makes a cursor for everything, and lets its class be chosen. What goes through SQLAlchemy's adapter for asyncpg
is heard there; whoever takes asyncpg's own connection out of it may do anything with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

# The statement, None for one that is not known, and its parameters.
Hear = Callable[[str | None, Any], None]

_EXECUTES = ("execute", "executemany", "copy", "stream")


class Ears:
    """Listens to the connections of one engine.

    Args:
        dialect: of SQLAlchemy.
    """

    def __init__(self, dialect: Any) -> None:
        self._driver = dialect.driver
        self._undo: list[Callable[[], object]] = []
        if self._driver == "asyncpg":  # its own way to the driver's connection goes past the adapter
            vars(dialect)["get_driver_connection"] = _taken_out
            self._undo.append(partial(vars(dialect).pop, "get_driver_connection", None))

    def listen(self, connection: Any, hear: Hear) -> bool:
        """Hear of a connection as SQLAlchemy's pool has it.

        Args:
            connection: of DBAPI, or the adapter in the place of one.
            hear: is called before each statement.

        Returns:
            Whether nothing that it executes can be missed.
        """
        if self._driver in ("psycopg", "psycopg_async"):
            self._undo.append(hear_psycopg(getattr(connection, "_connection", connection), hear))
            return True
        if self._driver == "asyncpg" and hasattr(type(connection), "_cursor_cls"):
            self._undo.append(_hear_adapter(connection, hear))
            return True
        return False

    def close(self) -> None:
        """Leave the connections as they were."""
        while self._undo:
            self._undo.pop()()


def _taken_out(adapter: Any) -> Any:
    return adapter.driver_connection


def hear_psycopg(driver: Any, hear: Hear) -> Callable[[], None]:
    """Hear of a connection of psycopg, sync or async; what is handed back ends that."""
    before = driver.cursor_factory, driver.server_cursor_factory
    driver.cursor_factory, driver.server_cursor_factory = (_heard(kind, hear) for kind in before)
    known = ref(driver)

    def undo() -> None:
        if (driver := known()) is not None:
            driver.cursor_factory, driver.server_cursor_factory = before

    return undo


def hear_asyncpg(driver: Any, hear: Hear) -> Callable[[], None]:
    """Hear of what a connection of asyncpg itself executes, a turn of the loop later; not of prepared statements."""

    def tell(record: Any) -> None:
        hear(record.query, record.args)

    known = ref(driver)
    driver.add_query_logger(tell)

    def undo() -> None:
        if (driver := known()) is not None:
            driver.remove_query_logger(tell)

    return undo


def _heard(kind: Any, hear: Hear) -> Any:
    def telling(method: Callable[..., Any]) -> Callable[..., Any]:
        def tell(self: Any, query: Any, params: Any = None, *args: Any, **options: Any) -> Any:
            text = query.decode(errors="replace") if isinstance(query, bytes) else query
            if not isinstance(text, str):  # composed
                text = getattr(query, "as_string", str)(self.connection)
            hear(text, params)
            return method(self, query, params, *args, **options)

        return tell

    methods = {name: telling(getattr(kind, name)) for name in _EXECUTES if hasattr(kind, name)}
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, **methods})


def _hear_adapter(adapter: Any, hear: Hear) -> Callable[[], None]:
    kind = type(adapter)

    def heard(cursor: Any) -> Any:
        def execute(self: Any, operation: Any, parameters: Any = None) -> Any:
            hear(operation, parameters)
            return cursor.execute(self, operation, parameters)

        def executemany(self: Any, operation: Any, parameters: Any) -> Any:
            hear(operation, None)
            return cursor.executemany(self, operation, parameters)

        methods = {"__slots__": (), "execute": execute, "executemany": executemany}
        return type(cursor.__name__, (cursor,), {"__module__": cursor.__module__, **methods})

    listening: list[Callable[[], None]] = []

    def driver_connection(self: Any) -> Any:
        if not listening:
            listening.append(hear_asyncpg(self._connection, hear))
        hear(None, None)
        return self._connection

    def run_async(self: Any, function: Callable[[Any], Any]) -> Any:
        hear(None, None)
        return kind.run_async(self, function)

    more = {
        "__slots__": (),
        "__module__": kind.__module__,
        "_cursor_cls": heard(kind._cursor_cls),
        "_ss_cursor_cls": heard(kind._ss_cursor_cls),
        "driver_connection": property(driver_connection),
        "run_async": run_async,
    }
    adapter.__class__ = type(kind.__name__, (kind,), more)

    def undo() -> None:
        adapter.__class__ = kind
        for stop in listening:
            stop()

    return undo
