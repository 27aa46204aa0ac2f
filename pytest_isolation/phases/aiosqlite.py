"""The thread of an aiosqlite connection as tasks of the loop: each statement is one, in the order of asking."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from threading import Thread
from typing import Any

from pytest_isolation.phases.loop import ControlledLoop


@contextmanager
def inline_connections(loop: ControlledLoop) -> Iterator[None]:
    """Give every connection of aiosqlite that is made in this block no thread; statements run on the loop.

    Args:
        loop: on which they are used.
    """
    module: Any = _imported()
    if module is None:
        yield
        return
    kind = module.Connection
    original = kind.__init__

    @wraps(original)
    def make(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._tx = _Jobs(loop)
        thread: Any = self if isinstance(self, Thread) else self._thread  # it is one itself before aiosqlite 0.22
        thread.start = lambda: None

    kind.__init__ = make
    try:
        yield
    finally:
        kind.__init__ = original


class _Jobs:
    """Stands in for the queue from which the thread takes its work."""

    def __init__(self, loop: ControlledLoop) -> None:
        self._loop = loop

    def put_nowait(self, item: tuple[Any, Callable[[], Any]]) -> None:
        """Do it as soon as it is its turn; at once if the loop is closed, for it only ends the connection then."""
        future, call = item
        if self._loop.is_closed():
            call()
        else:
            self._loop.run_inline(future, partial(call))


def _imported() -> Any:
    """The library, if there is one."""
    if "aiosqlite" not in sys.modules:
        try:
            import aiosqlite  # noqa: F401
        except ImportError:
            return None
    return sys.modules["aiosqlite.core"]
