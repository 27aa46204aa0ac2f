"""What of users' secrets is still in the memory of the process, and what keeps it."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextvars import Context
from functools import partial
from itertools import pairwise
from types import AsyncGeneratorType, CellType, CoroutineType, FrameType, GeneratorType, TracebackType

from pytest_isolation.model import Hold, Holding
from pytest_isolation.users import canary
from pytest_isolation.users.cast import Cast
from pytest_isolation.users.heap import Needles
from pytest_isolation.users.holding import Chain, chains, is_ours
from pytest_isolation.users.links import tell
from pytest_isolation.users.whereabouts import is_library

_SUSPENDED = (CoroutineType, GeneratorType, AsyncGeneratorType)
_INDEX = re.compile(r"\[(['\"]?)[^\]]*\]")


def remains(cast: Cast) -> tuple[Holding, ...]:
    """The secrets of a cast's users that can still be reached: one for each user and way to them.

    Ways that differ only in keys and indices are one.

    Args:
        cast: whose users have played; what is left of their secrets in this plugin and pytest is not counted.
    """
    gc.collect()
    needles = Needles(cast.key, len(cast.numbers))
    found = chains([one for one in needles.holders() if not is_ours(one)], cast.tracked.roots.values())
    ways: dict[tuple[str, Hold], dict[int, set[str]]] = {}
    concrete: dict[tuple[str, Hold], Counter[str]] = {}
    for chain in found.values():
        if chain.outside:  # in C code, where nobody could look for the reason
            continue
        path, owners = _read(cast, chain, needles)
        if owners:
            way = (_INDEX.sub(_any, path), _hold(chain))
            concrete.setdefault(way, Counter())[path] += 1
            for owner, names in owners.items():
                ways.setdefault(way, {}).setdefault(owner, set()).update(names)
    return tuple(
        Holding(owner, _said(names), _path(concrete[way], owners), by=way[1], secrets=tuple(sorted(names)))
        for way, owners in ways.items()
        for owner, names in owners.items()
    )


def _read(cast: Cast, chain: Chain, needles: Needles) -> tuple[str, Mapping[int, set[str]]]:
    """The way to the first secret that an object refers to; and the names of all of them, by owner."""
    path, owners = "", dict[int, set[str]]()
    for inner, text in needles.within(chain.links[-1]):
        for hit in canary.find(text):
            if (owner := canary.owner_in(cast.key, hit, cast.numbers)) is not None:
                owners.setdefault(owner, set()).add(cast.names.get(hit.name, hit.name))
        path = path or tell(chain._replace(links=(*chain.links, *inner)), cast.tracked.roots)
    return path, owners


def _any(index: re.Match[str]) -> str:
    return "['…']" if index[1] else "[…]"


def _path(seen: Counter[str], owners: Mapping[int, set[str]]) -> str:
    """What is said of ways that differ only in keys and indices: those that differ are left open."""
    indices = [*zip(*([match[0] for match in _INDEX.finditer(path)] for path in seen), strict=True)]
    same = [len(set(some)) == 1 for some in indices]
    if same and seen.total() == 1 and len(owners) > 1:  # one container with the secrets of several
        same[-1] = False
    left = iter(same)
    return _INDEX.sub(lambda match: match[0] if next(left) else _any(match), next(iter(seen)))


def _said(names: set[str]) -> str:
    some = ", ".join(map(repr, sorted(names)))
    return f"the secret{'s' if len(names) > 1 else ''} {some}"


def _is_of_a_library(timer: object) -> bool:
    """Such as that which closes an idle connection of a pool, and has the Context of whoever returned it last."""
    callback: object = getattr(timer, "_callback", None)
    while isinstance(callback, partial):
        callback = callback.func
    module = sys.modules.get(getattr(callback, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    return file is not None and is_library(file)


def _is_of_a_cancelled_task(chain: Chain) -> bool:
    """A task keeps what it was cancelled with (since Python 3.12), and so where it stood, while somebody has it."""
    pairs = pairwise(chain.links)
    return any(isinstance(one, asyncio.Task) and isinstance(kept, asyncio.CancelledError) for one, kept in pairs)


def _hold(chain: Chain) -> Hold:
    """What keeps a secret: what may be a store, or one of those that never are."""
    kinds = [type(link) for link in chain.links]

    def is_in(*some: type) -> bool:
        return any(issubclass(kind, some) for kind in kinds)

    if is_in(TracebackType, FrameType) and not _is_of_a_cancelled_task(chain):
        return Hold.EXCEPTION
    if is_in(threading.local):
        return Hold.THREAD_LOCAL
    if is_in(asyncio.Task, asyncio.AbstractEventLoop):
        return Hold.STORE  # a task that goes on is judged as such; a connection keeps the Context that opened it
    if is_in(Context):
        return Hold.STORE if _is_of_a_library(chain.links[0]) else Hold.CONTEXT
    if issubclass(kinds[-1], _SUSPENDED) and len(kinds) > 1:
        return Hold.FRAME
    return Hold.CLOSURE if kinds[-1] is CellType else Hold.STORE
