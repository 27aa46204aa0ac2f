"""Listens to what is handed over in calls of others' functions, and copies it without using anything up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

_ATOMS = (type(None), bool, int, float, str, bytes)
_DEEPEST = 8


@contextmanager
def told(owner: object, name: str, hear: Callable[[Any], None]) -> Iterator[None]:
    """Have the first argument of every call of one object's method heard before the call is made.

    The object itself stays in its place: pytest and others exchange streams while a test runs.

    Args:
        owner: the object, or a module; of one that is made in C nothing is heard.
        name: of the method.
        hear: must not raise.
    """
    call = getattr(owner, name, None)
    room = getattr(owner, "__dict__", None)
    if call is None or room is None:
        yield
        return

    def heard(*args: Any, **kwargs: Any) -> Any:
        if args:
            hear(args[0])
        return call(*args, **kwargs)

    own = name in room
    setattr(owner, name, heard)
    try:
        yield
    finally:
        if room.get(name) is heard:
            if own:
                setattr(owner, name, call)
            else:
                delattr(owner, name)


@contextmanager
def told_all(owner: Any, name: str, hear: Callable[..., None]) -> Iterator[None]:
    """Have all arguments of every call heard before the call is made.

    Args:
        owner: a class or a module.
        name: of its own function; where there is none, nothing is heard.
        hear: takes whatever the caller hands over, and must not raise.
    """
    call = vars(owner).get(name)
    if call is None:
        yield
        return

    @wraps(call)
    def heard(*args: Any, **kwargs: Any) -> Any:
        hear(*args, **kwargs)
        return call(*args, **kwargs)

    there = heard if isinstance(owner, type) else _Unbound(heard)
    setattr(owner, name, there)
    try:
        yield
    finally:
        if vars(owner).get(name) is there:
            setattr(owner, name, call)


class _Unbound:
    """Calls a function, and is no method of a class that keeps it: as a function that is made in C."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.__wrapped__ = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)


def plain(value: object, depth: int = 0) -> object:
    """A copy of plain values; anything else is only a text, because looking at it more closely may use it up."""
    if type(value) in _ATOMS:
        return value
    if depth < _DEEPEST and type(value) in (dict, list, tuple, set, frozenset):
        if isinstance(value, dict):
            return {text(key): plain(part, depth + 1) for key, part in [*value.items()]}
        return [plain(part, depth + 1) for part in [*value]]  # type: ignore[misc] # one of the other four
    return text(value)


def text(value: object) -> str:
    """What an object says of itself."""
    try:
        return str(value)
    except Exception:  # an object that cannot be printed is not the business of who listens
        return type(value).__name__
