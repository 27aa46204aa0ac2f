"""Watches pools for the time of a test: what they lend, to whom, and whether it comes back.

A pool is watched from outside, through the two methods with which it lends and takes back; nothing of it has to change.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import Any, Self, TypeVar

from pytest_isolation.backend import Borrowing
from pytest_isolation.errors import MisuseError
from pytest_isolation.targets.connection_looks import LookAsync, LookSync
from pytest_isolation.targets.httpx import pool_of, watch_client
from pytest_isolation.targets.promises import handle_of, heard
from pytest_isolation.targets.ready_made import LIBRARIES, Own, Terms, look_of, terms_of
from pytest_isolation.targets.watchable import Asked, method_of, refuse_unwatchable, refuse_wrong_record
from pytest_isolation.users.lendings import Lending, Lendings

T = TypeVar("T")

# What a pool itself does with its objects is no use of them by a borrower.
_WITHIN: ContextVar[bool] = ContextVar("pytest_isolation_within_pool", default=False)
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
        refuse_unwatchable(pool, Asked(name, limit, lend, back, of, dirt, uses, settings))
        if any(pool is one for one in self._lendings.watched):
            return pool
        if isinstance(pools := getattr(pool, "pools", None), Sequence):
            for one in pools:  # there may be more of them by now
                self(one)
            return pool
        if _is_engine(pool):
            self._watch_engine(pool, name, settings)
        elif (of_client := pool_of(pool)) is not None:
            self._undo.enter_context(watch_client(of_client, self._lendings, name, limit))
        else:
            lender: Any = getattr(pool, "connection_pool", pool)  # of redis-py, which has it in the client
            self._watch_pool(lender, name, limit, lend, back, Terms(of, dirt, uses), settings)
        self._lendings.watched.append(pool)
        self._undo.callback(self._forget, pool)
        return pool

    def _watch_engine(self, engine: Any, name: str | None, settings: Sequence[str]) -> None:
        from pytest_isolation.targets.sqlalchemy import watch_engine
        from pytest_isolation.targets.sqlalchemy_sessions import watch_sessions

        if watch_sessions not in self._lendings.watched:
            self._undo.enter_context(watch_sessions(self._lendings))
            self._lendings.watched.append(watch_sessions)
            self._undo.callback(self._forget, watch_sessions)
        self._undo.enter_context(watch_engine(engine, self._lendings, name, settings))

    def _watch_pool(
        self,
        lender: Any,
        name: str | None,
        limit: int | None,
        lend: str | None,
        back: str | None,
        terms: Terms,
        settings: Sequence[str],
    ) -> None:
        lends, takes_back = _methods(lender, lend, back)
        library = type(lender).__module__.partition(".")[0]
        name = name or (f"{type(lender).__name__} of {library}" if library in LIBRARIES else type(lender).__name__)
        lending = self._lendings.watch(name, limit if limit is not None else _limit(lender))
        watched = _Watched(lending, terms_of(lender, library, terms), library if library in LIBRARIES else None)
        if library == "asyncpg":
            lends = "_acquire"  # what acquire() hands out is a context manager, which comes back to this one
        look = look_of(lender, library, self._lendings, lending, settings)
        if look is not None:
            watched.look = look
            ends: list[Any] = self._lendings.at_end if isinstance(look, LookSync) else self._lendings.at_end_async
            ends.append(look.look_around)
            self._undo.callback(ends.remove, look.look_around)
            self._undo.callback(look.close)
        self._undo.enter_context(_replaced(lender, {lends: watched.lends, takes_back: watched.takes_back}))
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


class _Watched:
    """What stands in for the methods of a pool.

    Args:
        lending: the record of the pool.
        terms: how its objects are lent.
        library: what its own code does with them is no use; None is a pool of no library.

    Attributes:
        look: looks at a connection before it is lent; None does not.
    """

    def __init__(self, lending: Lending, terms: Terms, library: str | None) -> None:
        self._lending = lending
        self._terms = terms
        self._of = terms.of or _itself
        self._library = library
        self.look: LookAsync | LookSync | None = None
        self._handles: dict[int, weakref.finalize[Any, Any]] = {}
        self._kinds: dict[type, type] = {}
        self._leased: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def lends(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A method that lends."""

        def lend(*args: Any, **options: Any) -> Any:
            with _within():
                handle = original(*args, **options)
            promise = heard(handle, self)
            return promise if promise is not None else self.came(handle)

        return lend

    def takes_back(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A method that takes back."""
        find = handle_of(original)

        def take_back(*args: Any, **options: Any) -> Any:
            handle = find(args, options)
            # Before the pool knows of it, or somebody else may already have it; a second time only if it agrees.
            again = _nothing if _WITHIN.get() else self._returned(handle)  # it takes back what it failed to lend
            with _within():
                result = original(*args, **options)
            if inspect.isawaitable(result):
                return self._finish(result, handle, again)
            again()
            return result

        return take_back

    async def wait(self, promise: Any) -> Any:
        """See ``promises.Lender``."""
        with _within():
            lent = await promise
            if isinstance(self.look, LookAsync):
                await self.look(lent)
        return self._lent(lent)

    async def enter_async(self, manager: Any) -> Any:
        """See ``promises.Lender``."""
        return await self.wait(manager.__aenter__())

    def enter(self, manager: Any) -> Any:
        """See ``promises.Lender``."""
        with _within():
            lent = manager.__enter__()
        return self.came(lent)

    async def leave_async(self, manager: Any, thing: Any, error: tuple[Any, ...]) -> Any:
        """See ``promises.Lender``."""
        again = self._returned(thing)
        return await self._finish(manager.__aexit__(*error), thing, again)

    def leave(self, manager: Any, thing: Any, error: tuple[Any, ...]) -> Any:
        """See ``promises.Lender``."""
        again = self._returned(thing)
        with _within():
            done = manager.__exit__(*error)
        again()
        return done

    def came(self, thing: Any) -> Any:
        """See ``promises.Lender``."""
        if isinstance(self.look, LookSync):
            with _within():
                self.look(thing)
        return self._lent(thing)

    def _lent(self, handle: Any) -> Any:
        if handle is None:  # there was none to lend
            return None
        thing = self._of(handle)
        self._lending.acquired(thing, self._terms.dirt(thing) if self._terms.dirt is not None else "")
        if self._terms.uses or self._terms.methods is not None:
            self._listen(handle)
        if handle is not thing:
            with suppress(TypeError):
                self._leased[handle] = thing
            with suppress(TypeError):  # it knows no weak references
                forgotten = weakref.finalize(handle, self._lending.dropped, thing)
                forgotten.atexit = False
                self._handles[id(handle)] = forgotten
        return handle

    async def _finish(self, result: Any, handle: Any, then: Callable[[], None]) -> Any:
        thing = None if handle is None else self._of(handle)
        try:
            with _within():
                done = await result
        except BaseException:
            if thing is not None:
                self._lending.broken_off(thing)
            raise
        then()
        return done

    def _returned(self, handle: Any) -> Callable[[], None]:
        if (forgotten := self._handles.pop(id(handle), None)) is not None:
            forgotten.detach()
        thing = None if handle is None else self._of(handle)
        if thing is None:
            return _nothing
        if self._lending.is_lent(thing):
            if self._terms.left is not None and (left := self._terms.left(thing)):
                self._lending.soiled(thing, left)
            self._lending.released(thing)
            return _nothing
        return _nothing if self._terms.is_lease else partial(self._lending.released, thing)

    def _listen(self, thing: Any) -> None:
        """Hear of uses: the object becomes one of a subclass, for only that can be told from another one."""
        kind = type(thing)
        if kind in self._kinds.values():
            return
        if kind not in self._kinds:
            more = self._terms.methods(kind) if self._terms.methods is not None else {}
            told = {name: self._telling(more.get(name) or method_of(kind, name)) for name in self._terms.uses}
            told = {**more, **told}
            self._kinds[kind] = type(kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__, **told})
        try:
            thing.__class__ = self._kinds[kind]
        except TypeError as error:
            raise MisuseError(
                f"isolation_watch(…, uses=…): what is done with a {kind.__name__} cannot be heard ({error}); let the "
                "pool tell isolation_watch.recorder('name')"
            ) from None

    def _telling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def used(handle: Any, thing: Any) -> None:
            if not _WITHIN.get() and not self._is_by_library(sys._getframe(2)):
                self._lending.used(handle if thing is None else thing)

        async def finish(result: Any, handle: Any, thing: Any) -> Any:
            done = await result
            used(handle, thing)
            return done

        def tell(handle: Any, *args: Any, **options: Any) -> Any:
            thing = self._leased.get(handle)
            if thing is None:
                used(handle, None)
            result = method(handle, *args, **options)
            if thing is not None:  # a use that the lease refuses is none
                if inspect.iscoroutine(result):
                    return finish(result, handle, thing)
                used(handle, thing)
            return result

        return tell

    def _is_by_library(self, frame: FrameType | None) -> bool:
        name = frame.f_globals.get("__name__", "") if frame is not None else ""
        return self._library is not None and str(name).partition(".")[0] in (self._library, "redis", "psycopg_pool")

    def close(self) -> None:
        """Leave objects and handles as they were."""
        back = {new: old for old, new in self._kinds.items()}
        for thing in (*(one.get() for one in self._lending.things), *self._leased):
            if type(thing) in back:
                thing.__class__ = back[type(thing)]
        for forgotten in self._handles.values():
            forgotten.detach()


@contextmanager
def _within() -> Iterator[None]:
    token = _WITHIN.set(True)
    try:
        yield
    finally:
        _WITHIN.reset(token)


def _nothing() -> None:
    """What is to be told of an object that came back once."""


def _itself(handle: Any) -> Any:
    return handle


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


@contextmanager
def _replaced(pool: Any, methods: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]]) -> Iterator[None]:
    """Put others in the place of some methods of one object."""
    new = {name: wrap(getattr(pool, name)) for name, wrap in methods.items()}
    kind = type(pool)
    if hasattr(pool, "__dict__"):
        before = {name: vars(pool)[name] for name in new if name in vars(pool)}
        vars(pool).update(new)
        try:
            yield
        finally:
            for name in new:
                vars(pool).pop(name, None)
            vars(pool).update(before)
        return
    own = {name: staticmethod(method) for name, method in new.items()}
    try:
        pool.__class__ = type(kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__, **own})
    except TypeError as error:
        raise MisuseError(
            f"isolation_watch(pool): the methods of a {kind.__name__} cannot be heard ({error}); let the pool tell "
            "isolation_watch.recorder('name')"
        ) from None
    try:
        yield
    finally:
        pool.__class__ = kind
