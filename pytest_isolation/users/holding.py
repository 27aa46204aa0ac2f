"""What keeps objects alive: for each the shortest chain of references from a root, those a person would look at first.

The search goes backwards from the objects, a look at the whole heap for each step (``gc.get_referrers`` of all that was
met in the step before), until each has a root or there is nothing more to meet: it is never cut short. Ordinary holders
come first; tracebacks, Contexts, coroutines, timers and the event loop are gone into only where nothing else is left,
however short a way through them would be. What this plugin and pytest hold themselves keeps nothing alive.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Iterable, Mapping
from contextvars import Context
from functools import _lru_cache_wrapper
from types import AsyncGeneratorType, CoroutineType, FrameType, FunctionType, GeneratorType, TracebackType
from typing import Any, NamedTuple

from pytest_isolation.users.whereabouts import is_library

_KEEPERS = frozenset({"pytest_isolation", "_pytest", "pytest", "pluggy", "pytest_asyncio", "xdist", "sybil"})
_SUSPENDED = (CoroutineType, GeneratorType, AsyncGeneratorType)
_LATE = (
    *(TracebackType, FrameType, Context, threading.local, *_SUSPENDED),
    *(asyncio.Future, asyncio.Handle, asyncio.AbstractEventLoop),
)


class Chain(NamedTuple):
    """What keeps an object alive.

    Attributes:
        links: from the root to the object, both included.
        outside: so many references come from where the collector does not see; 0 where the first link is a root.
        frame: the running function whose variable the first link is, where it is that.
    """

    links: tuple[Any, ...]
    outside: int = 0
    frame: FrameType | None = None


def chains(objects: list[Any], roots: Iterable[object] = ()) -> dict[int, Chain]:
    """What keeps each of these alive, by its ``id``; of one that only this plugin or pytest holds there is nothing.

    Args:
        objects: collected just before, so that they are no garbage; the list is emptied.
        roots: further objects that live by right, such as what fixtures made.
    """
    search = _Search(objects, {id(one): one for one in roots})
    search.run()
    return search.chains()


class _Raised:
    """Which exceptions hold which frames, so that long tracebacks need not be gone through link by link.

    Each link would take a look at the whole heap.
    """

    __slots__ = ("_by_frame", "_links", "errors")

    def __init__(self) -> None:
        self.errors: list[BaseException] | None = None
        self._by_frame: dict[int, list[int]] = {}
        self._links: set[int] = set()

    def of(self, frame: int) -> list[BaseException]:
        """The exceptions that hold a frame."""
        errors = self._found()
        return [errors[at] for at in self._by_frame.get(frame, ())]

    def covered(self, holder: object, kids: set[int]) -> set[int]:
        """Those of its parts that are held by a link of such a traceback, or by a frame that was called from them."""
        if type(holder) is TracebackType and id(holder) in self._links:
            return kids
        if type(holder) is FrameType and holder.f_back is not None and id(holder.f_back) in self._by_frame:
            return {id(holder.f_back)}
        return set()

    def held(self, one: object) -> int:
        """How often we hold it here."""
        return int(any(error is one for error in self.errors or ()))

    def _found(self) -> list[BaseException]:
        if self.errors is None:
            self.errors = [one for one in gc.get_objects() if issubclass(type(one), BaseException)]
            for at, error in enumerate(self.errors):
                link = error.__traceback__
                while link is not None:
                    self._by_frame.setdefault(id(link.tb_frame), []).append(at)
                    self._links.add(id(link))
                    link = link.tb_next
        return self.errors


class _Search:
    __slots__ = (
        *("_holders", "_kept", "_kids", "_late", "_mine", "_nodes"),
        *("_raised", "_roots", "_seen_from", "_targets", "_up"),
    )

    def __init__(self, objects: list[Any], roots: Mapping[int, object]) -> None:
        self._nodes: dict[int, Any] = {}
        while objects:  # nobody else is to hold them meanwhile
            one = objects.pop()
            self._nodes[id(one)] = one
        self._targets = [*self._nodes]
        self._kids: dict[int, set[int]] = {}
        self._holders: dict[int, list[int]] = {}
        self._up: dict[int, int] = {}
        self._seen_from: dict[int, int] = {}
        self._kept: set[int] = set()
        self._late: list[Any] = []
        self._roots = roots
        self._raised = _Raised()
        self._mine = {id(one) for one in (self._nodes, self._late, objects, roots)}

    def run(self) -> None:
        """Go on until all have a root, or nothing is left to go into."""
        for key in self._targets:
            if self._is_root(self._nodes[key]):
                self._settle(key)
        frontier = [one for key, one in self._nodes.items() if key not in self._up]
        while frontier or self._late:
            if not frontier:
                frontier = self._late_ones()
                if not frontier:
                    return
            new = self._step(frontier)
            for key in sorted((key for key in new if self._is_root(self._nodes[key])), key=self._rank):
                self._settle(key)
            wanted = self._wanted()
            frontier = [self._nodes[key] for key in new if key in wanted]

    def _late_ones(self) -> list[Any]:
        """Those that were put off, without those that are roots, or lead to nothing that still wants one."""
        late = [id(one) for one in self._late]
        self._late.clear()
        for key in late:
            if _is_late_root(self._nodes[key]):
                self._settle(key)
        wanted = self._wanted()
        return [self._nodes[key] for key in late if key in wanted]

    def _step(self, frontier: list[Any]) -> list[int]:
        """Meet all that refers to one of these; what is new, apart from what is put off."""
        ids, new = {id(one) for one in frontier}, list[int]()
        for key in [key for key in ids if type(self._nodes[key]) is FrameType]:
            for error in self._raised.of(key):
                self._meet(error, {key}, new)
        mine = self._mine | {id(frontier), id(self._raised.errors)}
        asked = object()  # since Python 3.13 the tuple of arguments is itself among what refers to them
        for holder in gc.get_referrers(*frontier, asked):
            if id(holder) in mine or (type(holder) is tuple and holder and holder[-1] is asked):
                continue
            parts = gc.get_referents(holder)
            kids = ids.intersection(map(id, parts))
            for part in parts if kids else ():
                if id(part) in kids:
                    self._seen_from[id(part)] = self._seen_from.get(id(part), 0) + 1
            del parts
            kids -= self._raised.covered(holder, kids)
            if kids:
                self._meet(holder, kids, new)
        return new

    def _meet(self, holder: Any, kids: set[int], new: list[int]) -> None:
        key = id(holder)
        if key in self._nodes:
            self._join(key, kids)
            if key in self._up:
                self._settle(key)
        elif is_ours(holder):
            self._kept |= kids
        else:
            self._nodes[key] = holder
            self._join(key, kids)
            if issubclass(type(holder), _LATE):
                self._late.append(holder)
            else:
                new.append(key)

    def _join(self, key: int, kids: set[int]) -> None:
        self._kids.setdefault(key, set()).update(kids)
        for kid in kids:
            self._holders.setdefault(kid, []).append(key)

    def _settle(self, root: int) -> None:
        """What a root holds, directly or not, needs no other."""
        self._up.setdefault(root, 0)
        waiting = [root]
        while waiting:
            key = waiting.pop(0)
            for kid in self._kids.get(key, ()):
                if kid not in self._up:
                    self._up[kid] = key
                    waiting.append(kid)

    def _wanted(self) -> set[int]:
        """What holds something that has no root yet, and what has none itself."""
        waiting = [key for key in self._targets if key not in self._up]
        wanted = set(waiting)
        while waiting:
            for holder in self._holders.get(waiting.pop(), ()):
                if holder not in wanted and holder not in self._up:
                    wanted.add(holder)
                    waiting.append(holder)
        return wanted

    def _is_root(self, one: Any) -> bool:
        kind = type(one)
        return (
            id(one) in self._roots
            or issubclass(kind, type)
            or is_module(one)
            or (issubclass(kind, threading.Thread) and one.is_alive())
        )

    def _rank(self, key: int) -> int:
        """Fixtures and modules of the user's before those of libraries."""
        one = self._nodes[key]
        if key in self._roots or issubclass(type(one), threading.Thread):
            return 0
        module = one if isinstance(one, dict) else vars(sys.modules.get(getattr(one, "__module__", ""), object))
        file = module.get("__file__") or ""
        return 1 + (not file or is_library(file))

    def chains(self) -> dict[int, Chain]:
        """What came of it."""
        found: dict[int, Chain] = {}
        for target in self._targets:
            chain = self._chain(target) if target in self._up else self._from_outside(target)
            if chain is not None:
                found[target] = chain
        return found

    def _chain(self, target: int) -> Chain:
        links = [self._nodes[target]]
        while (target := self._up[target]) != 0:
            links.append(self._nodes[target])
        return Chain(tuple(reversed(links)))

    def _from_outside(self, target: int) -> Chain | None:
        """The closest holder that is held by what the collector does not show; None if only we hold it."""
        ways, waiting = {target: 0}, [target]
        best: Chain | None = None
        while waiting:
            key = waiting.pop(0)
            outside = self._references(key) - self._seen_from.get(key, 0) - self._raised.held(self._nodes[key])
            if key in self._kept and issubclass(type(self._nodes[key]), _SUSPENDED):  # a fixture, as a rule
                return self._linked(ways, key)
            frame = _running(self._nodes[key]) if outside > 0 else None
            if frame is not None and not is_ours(frame):
                return self._linked(ways, key)._replace(frame=frame)
            if outside > 0 and frame is None and best is None:
                best = self._linked(ways, key)._replace(outside=outside)
            for holder in self._holders.get(key, ()):
                if holder not in ways:
                    ways[holder] = key
                    waiting.append(holder)
        return None if self._kept & ways.keys() else best

    def _linked(self, ways: Mapping[int, int], first: int) -> Chain:
        links = []
        while first:
            links.append(self._nodes[first])
            first = ways[first]
        return Chain(tuple(links))

    def _references(self, key: int) -> int:
        """How many there are, apart from ours."""
        unheld: dict[int, Any] = {key: object()}
        return sys.getrefcount(self._nodes[key]) - sys.getrefcount(unheld[key])


def is_module(one: object) -> bool:
    """It is the dictionary of a module: what its functions take for their globals."""
    return type(one) is dict and "__name__" in one and ("__loader__" in one or "__builtins__" in one)


def is_ours(one: Any) -> bool:
    """It belongs to this plugin, to pytest or to another one that plays tests; or it is a handle that was cancelled.

    What it refers to it does not keep for anybody: it goes with the test, or when its time has come.
    """
    kind = type(one)
    if issubclass(kind, asyncio.Handle):
        return bool(one.cancelled())
    return _is_keeper(kind.__module__) or _is_keeper(_home(one, kind))


def _home(one: Any, kind: type) -> object:
    """The module in which a class, a function, a frame or a task was written; None of anything else."""
    if issubclass(kind, type) or kind in (FunctionType, _lru_cache_wrapper):
        return getattr(one, "__module__", None)
    if is_module(one):
        return one["__name__"]
    if issubclass(kind, asyncio.Task):
        one = one.get_coro()
        kind = type(one)
    if issubclass(kind, _SUSPENDED):
        frames = (getattr(one, name, None) for name in ("cr_frame", "gi_frame", "ag_frame"))
        one = next((frame for frame in frames if frame is not None), None)
    return one.f_globals.get("__name__") if isinstance(one, FrameType) else None


def _is_keeper(module: object) -> bool:
    return (
        isinstance(module, str)
        and (module.partition(".")[0] in _KEEPERS or module == "anyio.pytest_plugin")
        and not module.startswith("pytest_isolation.conformance.")
    )


def _is_late_root(one: Any) -> bool:
    """An event loop, and what it holds only weakly or will call."""
    kind = type(one)
    if issubclass(kind, asyncio.Task):
        return not one.done()
    if issubclass(kind, asyncio.AbstractEventLoop):
        return not one.is_closed()
    return issubclass(kind, asyncio.TimerHandle) and bool(getattr(one, "_scheduled", False))


def _running(one: object) -> FrameType | None:
    """The function on some stack that has this in a variable; the collector does not show what those refer to."""
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_globals is not globals() and any(value is one for value in frame.f_locals.values()):
                return frame
            frame = frame.f_back
    return None
