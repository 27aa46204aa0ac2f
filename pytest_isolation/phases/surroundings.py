"""Looks around in the process before and after each scene: what did its users leave behind?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat

import anyio

from pytest_isolation.model import Aftermath, Holding, Lapse, Leftover
from pytest_isolation.phases.ambient import State, changes, state
from pytest_isolation.phases.left import Alive, alive, counted, new_since
from pytest_isolation.phases.thread_locals import Locals, thread_locals
from pytest_isolation.users.cast import User
from pytest_isolation.users.lendings import Lendings
from pytest_isolation.users.tracked import Tracked

# What ends by itself is waited for; of those who are alone at first only a count is needed.
_CROWD_S, _ALONE_S = 1.0, 0.05
_STEP_S = 0.01
_TURNS = 3

Grown = Callable[[Sequence[Leftover], Sequence[int], Sequence[Aftermath]], Sequence[Leftover]]


class Surroundings:
    """What the scenes of one test leave behind.

    Args:
        grown: what of all that is left is more the more users there were (``oracles.tasks.grown``).
        tracked: what users hand over that must go when their runs have ended.

    Attributes:
        after: of the last scene.
        alone: of each scene of a user who was alone before the first crowd.
        lendings: what of the pools that are watched is lent.
        cycles: what users tracked, and only the garbage collector could take away.
    """

    def __init__(self, grown: Grown, tracked: Tracked) -> None:
        self.after = Aftermath()
        self.alone: list[Aftermath] = []
        self.lendings = Lendings()
        self.cycles: list[Holding] = []
        self._grown = grown
        self._tracked = tracked
        self._is_retention_known = False
        self._was_crowded = False
        self._before: Alive | None = None
        self._ambient: State | None = None
        self._locals: Locals = ()
        self._left: list[Leftover] = []
        self._most: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def scene(self, alone: bool, phase: str = "", users: int = 1) -> Iterator[None]:
        """Watch a scene; within it, when all users have ended, let things settle.

        Args:
            alone: its user is alone.
            phase: in words.
            users: how many play.
        """
        if not alone and not self._was_crowded:  # what the first users have made is there by now
            self._locals, self._ambient = thread_locals(), None
        self._was_crowded |= not alone
        self.after, self._left, self._before = Aftermath(), [], alive()
        ambient, self._ambient = self._ambient or state(self._locals), None
        self.lendings.begin(not (self._was_crowded or self.alone), phase)
        self._tracked.begin(users)
        try:
            yield
        finally:
            self._before = None
            self._tracked.resume()
            mishaps = self.lendings.end()
            self.after = Aftermath(mishaps=mishaps)
        if self._most:
            self._most |= Counter({kind: count for kind, count in counted().items() if kind in self._most})
        self._ambient = state(self._locals)  # the next scene begins with it
        self.after = Aftermath(tuple(self._left), tuple(changes(ambient, self._ambient)), mishaps, self._held())
        if not self._was_crowded:
            self.alone.append(self.after)

    async def settle_async(self, users: Sequence[User]) -> None:
        """Wait until nothing is left of what these users started, or for a second."""
        for pause_s in self._pauses(users):
            await anyio.sleep(pause_s)
        await self.lendings.look_around_async()

    def settle_sync(self, users: Sequence[User]) -> None:
        """The same in a thread without an event loop."""
        for pause_s in self._pauses(users):
            time.sleep(pause_s)
        self.lendings.look_around()

    def _held(self) -> tuple[Holding, ...]:
        held = self._tracked.end()
        self.cycles += [one for one in held if one.in_cycle]
        self._is_retention_known |= any(one.by is None and not one.in_cycle for one in held)
        return held

    @property
    def _kept_s(self) -> float:
        """How long what was tracked may take to go; once something did not, those who are alone need not wait."""
        return _ALONE_S if self._is_retention_known and not self._was_crowded else _CROWD_S

    @property
    def _lent_s(self) -> float:
        """How long what is lent may take to come back; once something did not, those who are alone need not wait."""
        is_known = any(one.lapse is Lapse.KEPT for after in self.alone for one in after.mishaps)
        return _ALONE_S if is_known and not self._was_crowded else _CROWD_S

    def _beyond(self, left: list[Leftover]) -> list[Leftover]:
        """Without what only makes up for what went on when an earlier scene had ended.

        A pool that has closed its connections, and opens them again, is as large as it was.
        """
        if not left:
            return left
        now, seen = counted(), Counter[tuple[str, str]]()
        beyond = []
        for one in left:
            kind = one.what, one.name
            most = self._most.setdefault(kind, 0)
            seen[kind] += 1
            if not most or seen[kind] <= now[kind] - most:
                beyond.append(one)
        return beyond

    def _waited_for(self, numbers: Sequence[int]) -> Sequence[Leftover]:
        """What may be gone in a moment; a timer is only if somebody calls it off, which is worth a wait once."""
        if self._was_crowded:
            return self._grown(self._left, numbers, self.alone)
        return [one for one in self._left if one.what != "timer"]

    def _pauses(self, users: Sequence[User]) -> Iterator[float]:
        numbers = [user._number for user in users]
        begun = time.perf_counter()
        deadline = begun + (_CROWD_S if self._was_crowded else _ALONE_S)
        has_collected = False  # what nobody holds any more is closed when garbage is collected
        is_held: bool | None = None
        for pause_s in chain(repeat(0.0, _TURNS), repeat(_STEP_S)):
            assert self._before is not None
            self._left = self._beyond(new_since(self._before, users))
            waited_for = self._waited_for(numbers)
            is_lent = self.lendings.are_lent and time.perf_counter() < begun + self._lent_s
            is_kept = is_held is not False and self._tracked.are_alive and time.perf_counter() < begun + self._kept_s
            lends = self.lendings.hold_a_user
            collects = (not has_collected and (self._was_crowded or lends)) or (is_kept and is_held is None)
            is_over = not collects and time.perf_counter() > deadline
            if not (is_lent or is_kept) and (is_over or not (waited_for or (lends and collects))):
                return
            if collects and pause_s:
                self._tracked.collect()
                has_collected = True
                is_held = bool(self._tracked.held())
                if not is_held:  # what only we keep is not worth waiting for
                    self._tracked.dismiss()
            yield pause_s
