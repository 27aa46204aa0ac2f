"""Stands in for the methods of a pool that lend and take back, and tells what becomes of its objects."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from pytest_isolation.errors import MisuseError
from pytest_isolation.targets.connection_looks import LookAsync, LookSync
from pytest_isolation.targets.promises import handle_of, heard
from pytest_isolation.targets.ready_made import Terms
from pytest_isolation.targets.uses import Uses, is_within_pool, within_pool
from pytest_isolation.users.lendings import Lending


class WatchedPool:
    """What stands in for the two methods of a pool.

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
        self._uses = Uses(lending, terms, library)
        self.look: LookAsync | LookSync | None = None
        self._handles: dict[int, weakref.finalize[Any, Any]] = {}

    def lends(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A method that lends."""

        def lend(*args: Any, **options: Any) -> Any:
            with within_pool():
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
            again = _nothing if is_within_pool() else self._returned(handle)  # it takes back what it failed to lend
            with within_pool():
                result = original(*args, **options)
            if inspect.isawaitable(result):
                return self._finish(result, handle, again)
            again()
            return result

        return take_back

    async def wait(self, promise: Any) -> Any:
        """See ``promises.Lender``."""
        with within_pool():
            lent = await promise
            if isinstance(self.look, LookAsync):
                await self.look(lent)
        return self._lent(lent)

    async def enter_async(self, manager: Any) -> Any:
        """See ``promises.Lender``."""
        return await self.wait(manager.__aenter__())

    def enter(self, manager: Any) -> Any:
        """See ``promises.Lender``."""
        with within_pool():
            lent = manager.__enter__()
        return self.came(lent)

    async def leave_async(self, manager: Any, thing: Any, error: tuple[Any, ...]) -> Any:
        """See ``promises.Lender``."""
        again = self._returned(thing)
        return await self._finish(manager.__aexit__(*error), thing, again)

    def leave(self, manager: Any, thing: Any, error: tuple[Any, ...]) -> Any:
        """See ``promises.Lender``."""
        again = self._returned(thing)
        with within_pool():
            done = manager.__exit__(*error)
        again()
        return done

    def came(self, thing: Any) -> Any:
        """See ``promises.Lender``."""
        if isinstance(self.look, LookSync):
            with within_pool():
                self.look(thing)
        return self._lent(thing)

    def _lent(self, handle: Any) -> Any:
        if handle is None:  # there was none to lend
            return None
        thing = self._of(handle)
        self._lending.acquired(thing, self._terms.dirt(thing) if self._terms.dirt is not None else "")
        self._uses.listen(handle)
        if handle is not thing:
            self._uses.lease(handle, thing)
            with suppress(TypeError):  # it knows no weak references
                forgotten = weakref.finalize(handle, self._lending.dropped, thing)
                forgotten.atexit = False
                self._handles[id(handle)] = forgotten
        return handle

    async def _finish(self, result: Any, handle: Any, then: Callable[[], None]) -> Any:
        thing = None if handle is None else self._of(handle)
        try:
            with within_pool():
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

    def close(self) -> None:
        """Leave objects and handles as they were."""
        self._uses.close()
        for forgotten in self._handles.values():
            forgotten.detach()


def _nothing() -> None:
    """What is to be told of an object that came back once."""


def _itself(handle: Any) -> Any:
    return handle


@contextmanager
def replaced(pool: Any, methods: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]]) -> Iterator[None]:
    """Put others in the place of some methods of one object, until the block ends.

    Args:
        pool: whose methods they are.
        methods: what makes another one of each, by its name.

    Raises:
        MisuseError: they cannot be replaced.
    """
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
