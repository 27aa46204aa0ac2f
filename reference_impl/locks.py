"""One lock for each key, and none that everybody has to take."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class Keyed(Generic[T]):
    """One thing for each key, for as long as somebody holds it: a lock, a semaphore.

    The table holds its things weakly, so that a million users who have gone cost nothing. Whoever uses one must hold
    it meanwhile, as ``async with`` does: of a semaphore that nobody holds the permits are forgotten with it.

    Args:
        make: makes the thing for a new key.
        shared: hand out one and the same thing for all keys, for comparison.
    """

    __slots__ = ("_make", "_shared", "_things")

    def __init__(self, make: Callable[[], T], *, shared: bool = False) -> None:
        self._make = make
        self._shared: T | None = make() if shared else None
        self._things: WeakValueDictionary[Hashable, T] = WeakValueDictionary()

    def of(self, key: Hashable) -> T:
        """The thing of this key."""
        if self._shared is not None:
            return self._shared
        thing = self._things.get(key)
        if thing is None:
            thing = self._things[key] = self._make()
        return thing

    def __len__(self) -> int:
        return len(self._things)
