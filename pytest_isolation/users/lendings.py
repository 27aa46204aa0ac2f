"""Who has what of a pool: each object is lent to one user at a time, and comes back.

It knows no pool. Those who watch one (``targets.pools``, ``targets.sqlalchemy``) tell it what becomes of the objects.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import ref

from pytest_isolation.model import Lapse, Mishap
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.whereabouts import Place, caller, shown

_REMEMBERED, _NAMED = 8, 3


class Holder(NamedTuple):
    """Who has an object.

    Attributes:
        number: of the user at work; None where that cannot be told.
        scene: in which it was acquired; 0 is outside of any.
        acquired_at: where.
    """

    number: int | None
    scene: int
    acquired_at: Place | None = None

    @property
    def place(self) -> str:
        """``app.py:31 in get``, as far as that is known."""
        return shown(self.acquired_at)


@dataclass(slots=True)
class Thing:
    """An object of a pool.

    Attributes:
        get: the object, None once it is gone.
        name: what a report calls it.
        holders: who has it.
        past: who had it, the last one last.
        is_unsure: its return was broken off, so that it may be returned again.
    """

    get: Callable[[], object]
    name: str
    holders: list[Holder] = field(default_factory=list)
    past: deque[Holder] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    is_unsure: bool = False


class Lendings:
    """What is lent of all the pools that are watched in one test.

    Attributes:
        scene: the number of the one that is played; 0 between two.
        scenes: how many have begun.
        pools: each that is watched.
        watched: the pools themselves.
        at_begin: is called when a scene begins, for there may be more pools by now.
        at_end: looks at what lies in a pool when a scene ends, before it is judged.
        at_end_async: the same, awaited.
        told: what went wrong in the scene that ended last.
    """

    def __init__(self) -> None:
        self.scene = self.scenes = 0
        self.pools: list[Lending] = []
        self.watched: list[object] = []
        self.at_begin: list[Callable[[], object]] = []
        self.at_end: list[Callable[[], object]] = []
        self.at_end_async: list[Callable[[], Awaitable[object]]] = []
        self.told: tuple[Mishap, ...] = ()
        self._phases: dict[int, str] = {}
        self._live_for_all: dict[str, bool] = {}
        self._is_fresh = False
        self._is_first = False
        self._mishaps: list[Mishap] = []
        self._lock = threading.RLock()  # a weak reference may die in any thread, and in the midst of our own work

    def watch(self, name: str, limit: int | None = None, noun: str = "") -> Lending:
        """A record for one more pool.

        Args:
            name: of the pool.
            limit: how many objects it may lend at once; None is any number.
            noun: what its objects are called; empty is by their class.
        """
        self.pools.append(Lending(self, name, limit, noun, self._lock))
        return self.pools[-1]

    def begin(self, is_first: bool, phase: str = "", is_fresh: bool = False) -> None:
        """A scene begins.

        Args:
            is_first: what its user keeps may live for all: a connection that listens, an object that is cached.
            phase: in words.
            is_fresh: pools are new in each scene, so that one object of each may live for all if one did at first.
        """
        for watch in self.at_begin:
            watch()
        self.scenes += 1
        self.scene, self._is_first, self._is_fresh = self.scenes, is_first, is_fresh
        self._phases[self.scene] = phase
        self._mishaps.clear()

    def look_around(self) -> None:
        """Look at what lies in the pools, without an event loop."""
        for look in self.at_end:
            look()

    async def look_around_async(self) -> None:
        """Look at what lies in the pools."""
        self.look_around()
        for look in self.at_end_async:
            await look()

    @property
    def are_lent(self) -> bool:
        """What users have acquired in this scene has not come back."""
        return not self._is_first and any(self._held_too_long())

    @property
    def hold_a_user(self) -> bool:
        """The same, of the first user too."""
        return any(holder.number is not None for holder, _, _ in self._kept())

    def end(self) -> tuple[Mishap, ...]:
        """The scene has ended, and whatever was to come back has had its time: all that went wrong."""
        if not self._is_first:
            self._mishaps += [
                Mishap(Lapse.KEPT, pool.name, thing.name, holder.number, None, pool.describe(thing.get()), holder.place)
                for holder, thing, pool in self._held_too_long()
            ]
        if self._is_fresh:
            kept = {pool.name for holder, _, pool in self._kept() if holder.number is not None}
            for pool in self.pools:
                self._live_for_all.setdefault(pool.name, pool.name in kept)
        self.scene = 0
        self.told = tuple(self._mishaps)
        self._mishaps.clear()
        return self.told

    def _held_too_long(self) -> Iterator[tuple[Holder, Thing, Lending]]:
        seen: dict[str, bool] = {}
        for kept in self._kept():
            if kept[0].number is None:
                continue
            name = kept[2].name
            if not self._is_fresh or name in seen or not self._live_for_all.get(name, True):
                yield kept
            seen[name] = True

    def forget(self, pools: Sequence[Lending]) -> None:
        """Some pools are gone.

        Args:
            pools: which.
        """
        self.pools = [pool for pool in self.pools if pool not in pools]

    @property
    def notes(self) -> list[str]:
        """What makes silence less worth than it looks."""
        return [note for pool in self.pools for note in _notes_on(pool)]

    def tell(self, mishap: Mishap) -> None:
        """Something went wrong; outside of a scene that is nobody's fault."""
        if self.scene:
            self._mishaps.append(mishap)

    def since(self, holder: Holder) -> str:
        """The phase in which somebody acquired an object, if it is over."""
        return "" if holder.scene == self.scene else self._phases.get(holder.scene, "")

    def now(self, placed: bool = False) -> Holder:
        """Who is at work."""
        user = AT_WORK.get()
        return Holder(None if user is None else user._number, self.scene, caller() if placed else None)

    def _kept(self) -> Iterator[tuple[Holder, Thing, Lending]]:
        for pool in self.pools:
            for thing in pool.things:
                yield from ((holder, thing, pool) for holder in thing.holders if holder.scene == self.scene)


class Lending:
    """The record of one pool; it satisfies ``backend.Borrowing``.

    Args:
        lendings: of the test.
        name: of the pool.
        limit: how many objects it may lend at once; None is any number.
        noun: what its objects are called; empty is by their class.
        lock: of the test.

    Attributes:
        has_committed: somebody has; None where that is not known.
        describe: what to say of an object that was never returned.
        remark: what could not be seen of it.
        unbound: tables whose row-level security does not apply to those who come through it, and who these are.
        takes_roles: some statement took another role.
    """

    def __init__(self, lendings: Lendings, name: str, limit: int | None, noun: str, lock: threading.RLock) -> None:
        self.name = name
        self.has_committed: bool | None = None
        self.remark = ""
        self.unbound: dict[str, str] = {}
        self.takes_roles = False
        self.describe: Callable[[Any], str] = lambda _thing: ""
        self._began = lendings.scenes
        self._lendings = lendings
        self._limit = limit
        self._noun = noun
        self._things: dict[int, Thing] = {}
        self._count = 0
        self._lock = lock

    @property
    def things(self) -> list[Thing]:
        """All objects that were ever lent and are still there."""
        with self._lock:
            return [*self._things.values()]

    def acquired(self, thing: object, dirt: str = "") -> None:
        """The pool has lent an object."""
        with self._lock:
            one, now = self._known(thing), self._lendings.now(placed=True)
            other = next((holder for holder in one.holders if _are_two(holder, now)), None)
            if other is not None:
                self._tell(Lapse.TWO_OWNERS, one, now, other, place=other.place)
            elif dirt and one.past and one.past[-1].scene:
                self._tell(Lapse.DIRTY, one, now, one.past[-1], dirt, one.past[-1].place)
            one.holders.append(now)
            one.is_unsure = False
            if self._limit is not None:
                self._count_lent(self._limit, one, now)

    def used(self, thing: object) -> None:
        """Somebody uses an object: no more who has returned it."""
        with self._lock:
            one, now = self._known(thing), self._lendings.now()
            has = any(not _are_two(holder, now) for holder in one.holders)
            had = next((holder for holder in reversed(one.past) if holder.number == now.number), None)
            if now.number is not None and had is not None and not has:
                self._tell(Lapse.USED_LATE, one, now, next(iter(one.holders), None), place=had.place)

    def released(self, thing: object) -> None:
        """The pool has taken an object back."""
        with self._lock:
            is_known = id(thing) in self._things
            one, now = self._known(thing), self._lendings.now()
            if one.holders:
                own = next((holder for holder in one.holders if not _are_two(holder, now)), one.holders[0])
                one.holders.remove(own)
                one.past.append(own)
            elif is_known and one.past and not one.is_unsure:
                self._tell(Lapse.TWICE, one, now, one.past[-1], place=one.past[-1].place)

    def broken_off(self, thing: object) -> None:
        """The pool did not get to the end of taking an object back."""
        with self._lock:
            self._known(thing).is_unsure = True

    def soiled(self, thing: object, left: str) -> None:
        """An object is given back as it must not be."""
        with self._lock:
            one, now = self._known(thing), self._lendings.now()
            self._tell(Lapse.SOILED, one, now, detail=left)

    def dropped(self, thing: object) -> None:
        """An object came back only because its borrower let go of it without a word."""
        with self._lock:
            if (one := self._things.get(id(thing))) is not None:
                self._note_drop(one)

    def is_lent(self, thing: object) -> bool:
        """Somebody has it."""
        one = self._things.get(id(thing))
        return one is not None and bool(one.holders)

    def last(self, thing: object) -> Holder | None:
        """Who had an object last: somebody of an earlier scene, where that was before it was watched."""
        one = self._things.get(id(thing))
        if one is not None and one.past:
            return one.past[-1]
        return Holder(None, self._began - 1) if self._began > 1 else None

    def now(self) -> Holder:
        """Who is at work."""
        return self._lendings.now()

    def name_of(self, thing: object) -> str:
        """What a report calls an object."""
        with self._lock:
            return self._known(thing).name

    def _count_lent(self, limit: int, one: Thing, now: Holder) -> None:
        lent = sum(bool(each.holders) for each in self.things)
        if lent > limit:
            self._tell(Lapse.BEYOND, one, now, detail=f"{lent} are lent at once, and its limit is {limit}")
            self._limit = None  # once is enough

    def _known(self, thing: object) -> Thing:
        one = self._things.get(id(thing))
        if one is None or one.get() is not thing:
            self._count += 1
            one = self._things[id(thing)] = Thing(
                self._hold(thing), f"{self._noun or type(thing).__name__} {self._count}"
            )
        return one

    def _hold(self, thing: object) -> Callable[[], object]:
        """Not so that it lives longer, where that can be helped."""
        key = id(thing)

        def gone(dead: ref[object]) -> None:
            with self._lock:
                if (one := self._things.get(key)) is not None and one.get is dead:
                    self._note_drop(one)
                    del self._things[key]

        try:
            return ref(thing, gone)
        except TypeError:
            return lambda: thing

    def _note_drop(self, one: Thing) -> None:
        for holder in one.holders:
            if holder.number is not None:
                self._tell(Lapse.DROPPED, one, holder, place=holder.place)
        one.past.extend(one.holders)
        one.holders.clear()

    def _tell(
        self, lapse: Lapse, one: Thing, now: Holder, other: Holder | None = None, detail: str = "", place: str = ""
    ) -> None:
        number = None if other is None else other.number
        since = "" if other is None else self._lendings.since(other)
        self._lendings.tell(Mishap(lapse, self.name, one.name, now.number, number, detail, place, since))


def _are_two(one: Holder, other: Holder) -> bool:
    """They are certainly not the same user."""
    return one.number is not None and other.number is not None and one.number != other.number


def _notes_on(pool: Lending) -> Iterator[str]:
    if pool.remark:
        yield pool.remark
    if pool.has_committed is False and any(holder.scene for thing in pool.things for holder in thing.past):
        yield (
            f"{pool.name}: nothing was committed, and a rollback takes away most of what a user can leave in a "
            "connection; let the scenario commit"
        )
    if pool.unbound and not pool.takes_roles:
        tables = [*pool.unbound]
        named = ", ".join(tables[:_NAMED]) + (f" and {len(tables) - _NAMED} more" if len(tables) > _NAMED else "")
        yield (
            f"{pool.name}: row-level security of {named} hides nothing from {pool.unbound[tables[0]]!r} (a superuser, "
            "the table's owner without FORCE, or BYPASSRLS); connect with a role that it binds"
        )
