"""What users have left in thread-locals, whichever thread it is: the event loop's, or that of a pool's worker.

Nothing lists thread-locals or what they hold for other threads, but the garbage collector knows. To go through all
that it knows takes some milliseconds, so they are looked up once in a test, and what they hold after each scene that
follows.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_isolation.users import canary

OF_THREADS = "the thread-local attribute "
Locals = Sequence[Callable[[], threading.local | None]]


def thread_locals() -> Locals:
    """All that there are now, held weakly; those that were there before ``gc.freeze`` are not seen."""
    kinds = {*_and_below(threading.local)}
    return [weakref.ref(one) for one in gc.get_objects() if type(one) in kinds]


def secrets_in(some: Locals, text: Callable[[Any], str]) -> Iterator[tuple[str, str]]:
    """Whatever bears a canary in them: what it is called, and what is there.

    Args:
        some: thread-locals.
        text: of a value.
    """
    for reference in some:
        if (one := reference()) is None:
            continue
        for namespace in _of_threads(one):
            for name, value in [*namespace.items()]:
                if canary.may_hold(said := text(value)):
                    yield f"{OF_THREADS}{name!r} of {_called(one)}", said


def _of_threads(one: threading.local) -> Iterator[dict[str, Any]]:
    """The attributes of a thread-local, as each thread that lives sees them."""
    for part in gc.get_referents(one):
        if type(part) is dict:  # for each thread its own
            yield from (namespace for namespace in [*part.values()] if type(namespace) is dict)


def _called(one: threading.local) -> str:
    """The place where it stands in a module, if it does."""
    for place, module in [*sys.modules.items()]:
        for name, value in [*getattr(module, "__dict__", {}).items()]:
            if value is one:
                return f"{place}.{name}"
    return type(one).__qualname__


def _and_below(kind: type[threading.local]) -> Iterator[type[threading.local]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _and_below(below)
