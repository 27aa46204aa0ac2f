"""Looks through the heap for canaries, without knowing who owns what.

Python's garbage collector knows every container; what a container refers to is looked at, texts, bytes and numbers in
dictionaries and tuples included that the collector does not track because nothing in them could be part of a cycle.
What libraries write in C and do not show to the collector is not seen, nor what was frozen with ``gc.freeze()``.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any
from weakref import ReferenceType

from pytest_isolation.users import canary

_CHUNK, _SMALL = 512, 16
_NESTED = (dict, tuple, set, frozenset)
# They hold nothing themselves that a user could have put there; the dictionary of a module is seen by itself.
_BARREN: frozenset[type] = frozenset(
    {
        *(BuiltinFunctionType, ClassMethodDescriptorType, GetSetDescriptorType, MemberDescriptorType),
        *(MethodDescriptorType, MethodWrapperType, WrapperDescriptorType, ModuleType, ReferenceType),
    }
)


class Needles:
    """What is looked for: every canary of one cast, plain, as text, bytes or number.

    Args:
        key: what all of them carry.
        owners: how many users the cast has; the key of a number counts on with them.
    """

    __slots__ = ("_bytes", "_high", "_kinds", "_low", "_text")

    def __init__(self, key: str, owners: int = 1) -> None:
        self._text = canary.PREFIX + key
        self._bytes = self._text.encode()
        first, last = canary.number_key(key), canary.number_key(key, max(0, owners - 1))
        if last < first:  # it began again at 000, so there is hardly one that it was not
            first, last = "000", "999"
        width = 10 ** (len(str(canary.SMALLEST_NUMBER)) - len(canary.NUMBER_PREFIX) - 3)
        self._low = int(canary.NUMBER_PREFIX + first) * width
        self._high = (int(canary.NUMBER_PREFIX + last) + 1) * width
        self._kinds: dict[type, type | None] = {}

    def holders(self) -> list[Any]:
        """Every object that refers to a canary, itself or through containers that the collector does not track."""
        objects = gc.get_objects()
        found: list[Any] = []
        for start in range(0, len(objects), _CHUNK):
            chunk = [one for one in objects[start : start + _CHUNK] if type(one) not in _BARREN]
            if self.are_in(gc.get_referents(*chunk)):
                found += self._narrowed(chunk)
        return found

    def _narrowed(self, chunk: Sequence[object]) -> Iterator[object]:
        for start in range(0, len(chunk), _SMALL):
            some = chunk[start : start + _SMALL]
            if self.are_in(gc.get_referents(*some)):
                yield from (one for one in some if self.are_in(gc.get_referents(one)))

    def are_in(self, parts: Sequence[Any]) -> bool:
        """One of them is a canary, or has one in it that the collector does not see."""
        needle, kinds, nested = self._text, self._kinds, []
        for part in parts:
            kind: type | None = type(part)
            if kind is str:
                if needle in part:
                    return True
                continue
            try:
                kind = kinds[type(part)]
            except KeyError:
                kind = kinds[type(part)] = _kind(type(part))
            if kind is None:
                continue
            if kind is tuple:
                if not gc.is_tracked(part):
                    nested.append(part)
            elif kind is int:
                if self._low <= part < self._high:
                    return True
            elif (needle if kind is str else self._bytes) in part:
                return True
        return bool(nested) and self.are_in(gc.get_referents(*nested))

    def within(self, holder: object) -> Iterator[tuple[list[Any], str]]:
        """The canaries that an object refers to: each with the containers on the way to it, itself last, and its text.

        Args:
            holder: one of ``holders()``.
        """
        for part in gc.get_referents(holder):
            if self.are_in([part]):
                kind = _kind(type(part))
                if kind is tuple:
                    yield from (([part, *rest], text) for rest, text in self.within(part))
                else:
                    yield [part], part.decode("latin-1") if kind is bytes else str(part)


def _kind(kind: type) -> type | None:
    """How a canary can be in an object of this type: as text, bytes or number, or in what it contains."""
    if issubclass(kind, bool):
        return None
    if issubclass(kind, bytes | bytearray):
        return bytes
    if kind in _NESTED:
        return tuple
    return next((one for one in (str, int) if issubclass(kind, one)), None)
