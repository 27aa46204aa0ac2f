"""Hears what borrowers do with the objects of a pool: an object becomes one of a subclass, whose methods tell."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType
from typing import Any

from pytest_isolation.errors import MisuseError
from pytest_isolation.targets.ready_made import Terms
from pytest_isolation.targets.watchable import method_of
from pytest_isolation.users.lendings import Lending

# What a pool itself does with its objects is no use of them by a borrower.
_WITHIN: ContextVar[bool] = ContextVar("pytest_isolation_within_pool", default=False)


@contextmanager
def within_pool() -> Iterator[None]:
    """What is done in this block is done by a pool."""
    token = _WITHIN.set(True)
    try:
        yield
    finally:
        _WITHIN.reset(token)


def is_within_pool() -> bool:
    """A pool is at work, and no borrower."""
    return _WITHIN.get()


class Uses:
    """What is done with the objects of one pool.

    Args:
        lending: the record of the pool.
        terms: how its objects are lent.
        library: what its own code does with them is no use; None is a pool of no library.
    """

    def __init__(self, lending: Lending, terms: Terms, library: str | None) -> None:
        self._lending = lending
        self._terms = terms
        self._library = library
        self._kinds: dict[type, type] = {}
        self._leased: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def listen(self, thing: Any) -> None:
        """Hear of uses: the object becomes one of a subclass, for only that can be told from another one."""
        if not self._terms.uses and self._terms.methods is None:
            return
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

    def lease(self, handle: Any, thing: Any) -> None:
        """What is done with a handle is done with the thing that it is a lease of."""
        with suppress(TypeError):  # it knows no weak references
            self._leased[handle] = thing

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
        """Let each object be one of its own class again."""
        back = {new: old for old, new in self._kinds.items()}
        for thing in (*(one.get() for one in self._lending.things), *self._leased):
            if type(thing) in back:
                thing.__class__ = back[type(thing)]
