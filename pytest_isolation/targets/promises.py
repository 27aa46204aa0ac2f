"""What some pools hand out in the place of an object: it is awaited, or entered, and only that gives the object.

So do asyncpg, aiomysql and aiopg, whose ``acquire()`` can be awaited and entered, and what ``@asynccontextmanager`` or
``@contextmanager`` makes.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol

# What an object has because it can be awaited; one with methods besides these is lent itself.
_OF_AWAITABLES = frozenset({*dir(Coroutine), *dir(asyncio.Task)})


class Lender(Protocol):
    """Who hears of what comes out."""

    def came(self, thing: Any) -> Any:
        """The object, which is lent now."""

    def wait(self, promise: Any) -> Coroutine[Any, Any, Any]:
        """The object, which has been lent when it comes."""

    def enter(self, manager: Any) -> Any:
        """The same of a context manager."""

    def enter_async(self, manager: Any) -> Coroutine[Any, Any, Any]:
        """The same of an async one."""

    def leave(self, manager: Any, thing: Any, error: tuple[Any, ...]) -> Any:
        """The object comes back."""

    def leave_async(self, manager: Any, thing: Any, error: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
        """The same of an async one."""


def heard(value: Any, lender: Lender) -> Any:
    """What stands for a promise, so that the lender hears of what comes out; None for what is none.

    Args:
        value: what a method that lends has given.
        lender: hears.
    """
    if inspect.iscoroutine(value):
        return lender.wait(value)
    if asyncio.isfuture(value):
        return _listened_to(value, lender)
    kind = type(value)
    is_async, is_sync = hasattr(kind, "__aenter__"), hasattr(kind, "__enter__")
    if not (inspect.isawaitable(value) or is_async or is_sync) or _has_methods(kind):
        return None
    if not inspect.isawaitable(value):
        return _Entered(value, lender) if is_async else _EnteredSync(value, lender)
    return _Awaited(value, lender) if is_async else lender.wait(value)


def handle_of(method: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """What finds the object among the arguments of a method that takes it back, also if it comes by its name.

    Args:
        method: bound; the object is its first argument.
    """
    try:
        name = next(iter(inspect.signature(method).parameters), "")
    except (TypeError, ValueError):  # a method in C may not say
        name = ""

    def find(args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if args:
            return args[0]
        return options[name] if name in options else next(iter(options.values()), None)

    return find


def _listened_to(future: asyncio.Future[Any], lender: Lender) -> asyncio.Future[Any]:
    """The same future: another one around it would not cancel it before having begun to wait for it."""

    def hear(done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            lender.came(done.result())

    if future.done():  # whoever waits for it goes on at once
        hear(future)
    else:  # whoever waits for it comes later, and goes on after that
        future.add_done_callback(hear)
    return future


def _has_methods(kind: type) -> bool:
    names = (name for name in dir(kind) if not name.startswith("_") and name not in _OF_AWAITABLES)
    return any(callable(getattr(kind, name, None)) for name in names)


class _Stand:
    """Stands for a promise, and is like it otherwise."""

    def __init__(self, promise: Any, lender: Lender) -> None:
        self._promise, self._lender = promise, lender
        self._thing: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._promise, name)


class _Entered(_Stand):
    """An async context manager."""

    async def __aenter__(self) -> Any:
        self._thing = await self._lender.enter_async(self._promise)
        return self._thing

    async def __aexit__(self, *error: object) -> Any:
        thing, self._thing = self._thing, None
        return await self._lender.leave_async(self._promise, thing, error)


class _EnteredSync(_Stand):
    """A context manager."""

    def __enter__(self) -> Any:
        self._thing = self._lender.enter(self._promise)
        return self._thing

    def __exit__(self, *error: object) -> Any:
        thing, self._thing = self._thing, None
        return self._lender.leave(self._promise, thing, error)


class _Awaited(_Entered, Coroutine[Any, Any, Any]):
    """An async context manager that can also be awaited; libraries make it a coroutine, so that a task can be made."""

    _waiting: Coroutine[Any, Any, Any] | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._lender.wait(self._promise).__await__()

    def send(self, value: Any) -> Any:
        """Go on."""
        return self._coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """Fail."""
        return self._coroutine().throw(*error)

    def close(self) -> None:
        """End, whether it has begun or not."""
        if self._waiting is not None:
            self._waiting.close()
        elif hasattr(self._promise, "close"):
            self._promise.close()

    def _coroutine(self) -> Coroutine[Any, Any, Any]:
        if self._waiting is None:
            self._waiting = self._lender.wait(self._promise)
        return self._waiting
