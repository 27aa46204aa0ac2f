"""Whether one user's objects lead to another's while both are at work: forwards along references, as code could go.

Everything leads to everything through modules, classes and the globals of functions, and through event loops and tasks;
there the search stops, and at whatever all users have by right, such as what fixtures made.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Collection, Sequence
from contextvars import Context
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    ModuleType,
    TracebackType,
)
from typing import Any, NamedTuple

from pytest_isolation.users.holding import is_module, is_ours

_ENDS = (
    *(ModuleType, type, FunctionType, BuiltinFunctionType, CodeType, FrameType, TracebackType, Context),
    *(CoroutineType, GeneratorType, AsyncGeneratorType, asyncio.Future, asyncio.Handle, asyncio.AbstractEventLoop),
    *(threading.Thread, threading.local, str, bytes, int, float),
)
# Beyond that it would be noticed; whatever is shared by users is near to what belongs to each.
_MOST = 200_000


class Reach(NamedTuple):
    """A way from what belongs to one user to what belongs to another.

    Attributes:
        user: the number of the first.
        owner: the number of the other.
        links: from the one object to the other, both included.
    """

    user: int
    owner: int
    links: tuple[Any, ...]


def reaches(things: Sequence[tuple[int, Any]], shared: Collection[object]) -> list[Reach]:
    """For each user whose objects others' lead to, the shortest way.

    Args:
        things: what belongs to whom: numbers of users, and their objects.
        shared: what all users have by right.
    """
    owners = {id(one): number for number, one in things}
    stops = {id(one) for one in shared} | {id(things), id(owners)}
    came: dict[tuple[int, int], tuple[int, Any]] = {(id(one), number): (0, one) for number, one in things}
    seen_by: dict[int, set[int]] = {id(one): {number} for number, one in things}
    found: dict[int, Reach] = {}
    frontier = [(number, one) for number, one in things]
    while frontier and len(came) < _MOST:
        following: list[tuple[int, Any]] = []
        for number, one in frontier:
            for part in gc.get_referents(one):
                key = id(part)
                known = seen_by.setdefault(key, set())
                # Two users are enough to see that what is behind it belongs to neither, or to one of them.
                if number in known or len(known) > 1 or key in stops or issubclass(type(part), _ENDS):
                    continue
                if is_module(part) or is_ours(part):
                    continue
                known.add(number)
                came[key, number] = (id(one), part)
                owner = owners.get(key, number)
                if owner == number:
                    following.append((number, part))
                elif owner not in found:
                    found[owner] = Reach(number, owner, _links(came, key, number))
        frontier = following
    return [*found.values()]


def _links(came: dict[tuple[int, int], tuple[int, Any]], key: int, number: int) -> tuple[Any, ...]:
    links = []
    while key:
        key, one = came[key, number]
        links.append(one)
    return tuple(reversed(links))
