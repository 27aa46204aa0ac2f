"""What users handed over, held weakly: it must be dead when their runs have ended."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from types import BuiltinFunctionType, BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import NamedTuple
from weakref import ref

from pytest_isolation.errors import MisuseError
from pytest_isolation.model import Hold, Holding
from pytest_isolation.users.holding import Chain, chains
from pytest_isolation.users.links import tell
from pytest_isolation.users.reaching import reaches
from pytest_isolation.users.whereabouts import Place, caller, shown

_EVERY = 20
_PAUSING: set[Tracked] = set()


def let_collect() -> None:
    """Let the collector work again, whoever paused it: a test has ended, in whatever way."""
    for one in [*_PAUSING]:
        one.resume()


class _Thing(NamedTuple):
    """An object that was handed over.

    Attributes:
        get: the object, None once it is gone.
        owner: the number of the user whose it is.
        kind: what it is.
        place: where it was handed over.
    """

    get: ref[object]
    owner: int
    kind: str
    place: Place | None


def _refuse_code(thing: object) -> None:
    """Refuse what is the same for all users, and methods, each of which is gone as soon as it was made.

    Raises:
        MisuseError: it is that.
    """
    if isinstance(thing, MethodType | BuiltinMethodType) and not isinstance(thing.__self__, ModuleType):
        raise MisuseError(f"track() cannot follow the method {thing.__name__}: track the object whose method it is")
    if isinstance(thing, type | ModuleType | FunctionType | BuiltinFunctionType):
        if isinstance(thing, FunctionType) and "<locals>" in thing.__qualname__:
            return  # a callback that was made in a run belongs to it
        what = "class" if isinstance(thing, type) else "module" if isinstance(thing, ModuleType) else "function"
        raise MisuseError(
            f"track() takes what belongs to one user's run, and the {what} {thing.__name__} belongs to all: track an "
            "object that was made for this user"
        )


class Tracked:
    """What the users of one test handed over in one scene.

    Automatic garbage collection rests from the first object to the end of the scene, so that it can be told what goes
    by itself, and what only the collector finds.

    Attributes:
        pauses_collector: it may rest; where latency is judged, all must be as always.
        roots: what lives by right, such as what fixtures made, by what it is called.
        is_used: something was handed over in this test.
        is_strict: no user's objects may lead to another's while both are at work.
    """

    def __init__(self) -> None:
        self.pauses_collector = True
        self.roots: Mapping[str, object] = {}
        self.is_used = self.is_strict = False
        self._missing = 0
        self._reached: tuple[Holding, ...] = ()
        self._things: list[_Thing] = []
        self._known: dict[int, ref[object]] = {}
        self._cycles: list[_Thing] = []
        self._harmless: set[tuple[str, Place | None]] = set()
        self._skipped = 0

    def add(self, owner: int, thing: object) -> None:
        """Take down an object.

        Raises:
            MisuseError: it cannot be referred to weakly, or it belongs to nobody's run.
        """
        _refuse_code(thing)
        try:
            get = ref(thing)
        except TypeError:
            raise MisuseError(
                f"track() cannot follow a {type(thing).__name__}, which nothing can refer to weakly: track the object "
                "that it belongs to, or give its class a slot for it: __slots__ = (…, '__weakref__')"
            ) from None
        known = self._known.get(id(thing))
        if known is not None and known() is thing:
            return
        if not self._things and self.pauses_collector and gc.isenabled():
            gc.disable()
            _PAUSING.add(self)
        self.is_used = True
        self._known[id(thing)] = get
        is_new = owner not in {one.owner for one in self._things} if self._missing else False
        self._things.append(_Thing(get, owner, type(thing).__qualname__.rpartition("<locals>.")[2], caller()))
        if is_new:
            self._missing -= 1
            if not self._missing:
                self._look_across()

    @property
    def notes(self) -> list[str]:
        """What makes silence less worth than it looks."""
        frozen = gc.get_freeze_count() if self.is_used else 0  # it counts them one by one
        if not frozen:
            return []
        return [f"{frozen:,} objects were frozen with gc.freeze(): what only those keep alive is said to be held by C"]

    def _look_across(self) -> None:
        """The last of the users has handed over something: see whose objects lead to whose, now."""
        alive = [(thing.owner, one) for thing in self._things if (one := thing.get()) is not None]
        shared = [one for root in self.roots.values() for one in (root.values() if isinstance(root, dict) else [root])]
        by_id = {id(thing.get()): thing for thing in self._things}
        self._reached = tuple(
            replace(_holding(by_id[id(way.links[-1])], tell(Chain(way.links))), by=Hold.REACHED, user=way.user)
            for way in reaches(alive, shared)
        )

    def begin(self, users: int = 0) -> None:
        """A scene begins; what was handed over before is not looked at any more.

        Args:
            users: how many play in it, where it is to be seen whose objects lead to whose.
        """
        self._missing, self._reached = users if self.is_strict and users > 1 else 0, ()
        self._things.clear()
        self._known.clear()
        self._cycles.clear()

    @property
    def are_alive(self) -> bool:
        """Something is."""
        return any(thing.get() is not None for thing in self._things)

    def collect(self) -> None:
        """Collect garbage, and note what goes only so."""
        before = [thing for thing in self._things if thing.get() is not None]
        gc.collect()
        self._cycles += [thing for thing in before if thing.get() is None]

    def held(self) -> tuple[Holding, ...]:
        """What is still alive, and is kept by others than this plugin and pytest."""
        if not self.are_alive:
            return ()
        found = chains([one for one in (thing.get() for thing in self._things) if one is not None], self.roots.values())
        told = {key: tell(chain, self.roots) for key, chain in found.items()}
        return tuple(_holding(thing, path=told[key]) for thing in self._things if (key := id(thing.get())) in told)

    def dismiss(self) -> None:
        """What is still alive is kept by nobody but this plugin and pytest, so nothing more is to be said of it."""
        self._things.clear()

    def after_run(self, backend: object) -> tuple[Holding, ...]:
        """One of many runs has ended.

        A look costs as much as hundreds of runs. So what was seen to go by collection only, or to be kept by nobody but
        us, is looked at again in every twentieth run; and always once something else was found.

        Args:
            backend: of this run; it is still there, and whatever it keeps is kept.
        """
        self.roots = {**self.roots, "backend": backend}
        if not self._things:
            return ()
        alive = {(thing.kind, thing.place) for thing in self._things if thing.get() is not None}
        self._skipped += bool(alive)
        if not alive or (alive <= self._harmless and self._skipped < _EVERY):
            self.resume()
            self.begin()
            return ()
        self._skipped = 0
        self.collect()
        held = self.end()
        found = any(not one.in_cycle for one in held)
        self._harmless = set() if found else self._harmless | alive
        self._skipped = _EVERY if found else 0
        return held

    def end(self) -> tuple[Holding, ...]:
        """The scene has ended: what is still alive, and what only the collector could take away."""
        try:
            return (*self._reached, *self.held(), *(_holding(thing, in_cycle=True) for thing in self._cycles))
        finally:
            self.resume()
            self.begin()

    def resume(self) -> None:
        """Let the collector work again."""
        if self in _PAUSING:
            _PAUSING.remove(self)
            gc.enable()


def _holding(thing: _Thing, path: str = "", in_cycle: bool = False) -> Holding:
    return Holding(thing.owner, thing.kind, path, shown(thing.place), in_cycle)
