"""Watches pools for the time of a test: what they lend, to whom, and whether it comes back.

A pool is watched from outside, through the two methods with which it lends and takes back; nothing of it has to change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self, TypeVar

from pytest_isolation.backend import Borrowing
from pytest_isolation.errors import MisuseError
from pytest_isolation.targets.connection_looks import LookSync
from pytest_isolation.targets.httpx import pool_of, watch_client
from pytest_isolation.targets.ready_made import LIBRARIES, Own, Terms, look_of, terms_of
from pytest_isolation.targets.watchable import Asked, refuse_unwatchable, refuse_wrong_record
from pytest_isolation.targets.watched_pool import WatchedPool, replaced
from pytest_isolation.users.lendings import Lending, Lendings

T = TypeVar("T")

_LENDS = (("acquire", "release"), ("getconn", "putconn"), ("get_connection", "release"), ("borrow", "give_back"))
_LIMITS = ("limit", "max_size", "maxsize", "max_connections", "_limit")
HOW = (
    "isolation_watch(pool) takes an engine of SQLAlchemy, a pool of asyncpg, psycopg or redis-py, a client of "
    "redis-py or httpx, or any pool with acquire() and release(); other names with isolation_watch(pool, lend='take', "
    "back='put'), and any other kind of pool tells isolation_watch.recorder('name') what it does"
)


class Watch:
    """The fixture ``isolation_watch``.

    Args:
        lendings: keeps what is lent, for the test.
    """

    def __init__(self, lendings: Lendings) -> None:
        self._lendings = lendings
        self._recorders: dict[str, Lending] = {}
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def __call__(
        self,
        pool: T,
        *,
        name: str | None = None,
        limit: int | None = None,
        lend: str | None = None,
        back: str | None = None,
        of: Own | None = None,
        dirt: Callable[[Any], str] | None = None,
        uses: Sequence[str] = (),
        settings: Sequence[str] = (),
    ) -> T:
        """Watch a pool until the test has ended.

        Args:
            pool: an engine of SQLAlchemy, a pool, a client that has one, or a backend that names its own
                (``backend.Pooled``).
            name: of the pool in reports; its class by default.
            limit: how many objects it may lend at once; found by itself where the pool says it.
            lend: the method that lends; found by itself where it has a usual name.
            back: the method that takes back, with the object as its first argument.
            of: the pooled object in what the pool hands out, where that is a lease around it.
            dirt: what an object still holds of an earlier borrower, empty if it is clean; asked when it is lent.
            uses: methods of the objects that only their borrower may call.
            settings: of an engine on PostgreSQL, or a pool of asyncpg: custom settings such as ``app.user_id`` that are
                set past SQLAlchemy; those in its statements are found by themselves.

        Returns:
            The pool.

        Raises:
            MisuseError: it is no pool that can be watched, or something that is said of it is wrong.
        """
        asked = Asked(name, limit, lend, back, of, dirt, uses, settings)
        refuse_unwatchable(pool, asked)
        if any(pool is one for one in self._lendings.watched):
            return pool
        if isinstance(pools := getattr(pool, "pools", None), Sequence):
            for one in pools:  # there may be more of them by now
                self(one)
        else:
            self._watch(pool, asked)
        return pool

    def _watch(self, pool: Any, asked: Asked) -> None:
        if _is_engine(pool):
            self._watch_engine(pool, asked)
        elif (of_client := pool_of(pool)) is not None:
            self._undo.enter_context(watch_client(of_client, self._lendings, asked.name, asked.limit))
        else:
            self._watch_pool(getattr(pool, "connection_pool", pool), asked)  # redis-py has it in the client
        self._remember(pool)

    def _watch_engine(self, engine: Any, asked: Asked) -> None:
        from pytest_isolation.targets.sqlalchemy import watch_engine
        from pytest_isolation.targets.sqlalchemy_sessions import watch_sessions

        if watch_sessions not in self._lendings.watched:
            self._undo.enter_context(watch_sessions(self._lendings))
            self._remember(watch_sessions)
        self._undo.enter_context(watch_engine(engine, self._lendings, asked.name, asked.settings))

    def _watch_pool(self, lender: Any, asked: Asked) -> None:
        lends, takes_back = _methods(lender, asked.lend, asked.back)
        library = type(lender).__module__.partition(".")[0]
        kind, is_known = type(lender).__name__, library in LIBRARIES
        name = asked.name or (f"{kind} of {library}" if is_known else kind)
        lending = self._lendings.watch(name, asked.limit if asked.limit is not None else _limit(lender))
        terms = terms_of(lender, library, Terms(asked.of, asked.dirt, asked.uses))
        watched = WatchedPool(lending, terms, library if is_known else None)
        if library == "asyncpg":
            lends = "_acquire"  # what acquire() hands out is a context manager, which comes back to this one
        look = look_of(lender, library, self._lendings, lending, asked.settings)
        if look is not None:
            watched.look = look
            ends: list[Any] = self._lendings.at_end if isinstance(look, LookSync) else self._lendings.at_end_async
            ends.append(look.look_around)
            self._undo.callback(ends.remove, look.look_around)
            self._undo.callback(look.close)
        self._undo.enter_context(replaced(lender, {lends: watched.lends, takes_back: watched.takes_back}))
        self._undo.callback(watched.close)

    def follow(self, backend: object) -> None:
        """Watch what a backend says that it lends, now and whenever a scene begins: there may be more of it by then.

        Args:
            backend: like ``backend.Pooled``; of another one nothing is watched.
        """

        def look() -> None:
            pools = getattr(backend, "pools", None)
            for one in pools if isinstance(pools, Sequence) and not isinstance(pools, str) else ():
                with suppress(MisuseError):  # who asks for it in so many words is told
                    self(one)

        look()
        self._lendings.at_begin.append(look)
        self._undo.callback(self._lendings.at_begin.remove, look)

    def _remember(self, pool: object) -> None:
        self._lendings.watched.append(pool)
        self._undo.callback(self._forget, pool)

    def _forget(self, pool: object) -> None:
        self._lendings.watched[:] = [one for one in self._lendings.watched if one is not pool]

    def recorder(self, name: str, limit: int | None = None) -> Borrowing:
        """What a pool of any other kind tells of its objects: ``acquired``, ``used`` and ``released``.

        Args:
            name: of the pool in reports; the same name gives the same recorder.
            limit: how many objects it may lend at once.

        Raises:
            MisuseError: the name or the limit is none.
        """
        refuse_wrong_record("isolation_watch.recorder(…)", name or "", limit)
        if name not in self._recorders:  # a scenario asks once for each user
            self._recorders[name] = self._lendings.watch(name, limit)
        return self._recorders[name]


def _is_engine(pool: Any) -> bool:
    return any(kind.__module__.startswith("sqlalchemy.") and "Engine" in kind.__name__ for kind in type(pool).__mro__)


def _methods(pool: Any, lend: str | None, back: str | None) -> tuple[str, str]:
    pairs = [(lend, back)] if lend is not None and back is not None else _LENDS
    for pair in pairs:
        if all(callable(getattr(pool, name, None)) for name in pair):
            return pair
    raise MisuseError(f"a {type(pool).__name__} is no pool that is known: {HOW}")


def _limit(pool: Any) -> int | None:
    found = next((getattr(pool, name) for name in _LIMITS if hasattr(pool, name)), None)
    return found if isinstance(found, int) and found > 0 else None
