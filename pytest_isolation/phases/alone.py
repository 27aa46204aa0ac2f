"""What of a run was a user's own doing: its own steps, in the order and at the pace at which they were made.

A user whose steps are slow can miss its own timeouts, and whose tasks come in another order can lose its own races.
Before somebody else is accused of what it met, it plays alone as it was played: with the same order among its own
tasks and timers, and with a machine that is slow at the same moments.
"""

from __future__ import annotations

from asyncio import Handle, TimerHandle
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from pytest_isolation.phases.lanes import Lane
from pytest_isolation.phases.strategies import Strategy


class Ready(Protocol):
    """What is ready, and what time it is (``phases.lanes.Lanes``)."""

    def ready_of(self, number: int) -> list[Lane]:
        """What is ready of somebody's work, in the order of its arrival; of callbacks the first."""

    def next_of(self, lane: Lane) -> Handle | None:
        """What runs next in a lane; None if it is the clock's."""

    def works_for(self, handle: Handle) -> int | None:
        """The number of the user whose work a handle does."""

    def timers(self) -> Sequence[TimerHandle]:
        """Those that are so near that a slow machine would let them fire first, the next one first."""

    def now(self) -> float:
        """In virtual seconds."""


class Diary:
    """Writes down one user's decisions in a run of many.

    Args:
        number: the user's.

    Attributes:
        values: the decisions, as they would be if this one were alone.
        lags: for how long the machine did something else while this one was ready, by how many steps it and its
            timers had made.
    """

    def __init__(self, number: int) -> None:
        self.values: list[int] = []
        self.lags: defaultdict[int, float] = defaultdict(float)
        self._number = number
        self._steps = 0

    def peek(self, ready: Ready, lane: Lane) -> None:
        """A lane has been chosen, and has not run yet."""
        mine = ready.ready_of(self._number)
        own_timers = [timer for timer in ready.timers() if ready.works_for(timer) == self._number]
        handle = ready.next_of(lane)
        if handle is None:
            timer = ready.timers()[0]
            if mine and timer in own_timers:
                self.values.append(len(mine))
                self._steps += 1
            elif mine:
                self.lags[self._steps] += timer.when() - ready.now()
        elif ready.works_for(handle) == self._number:
            if len(mine) + bool(own_timers) > 1:
                self.values.append(mine.index(lane))
            self._steps += 1


class Alone(Strategy):
    """The strategy of a user who is alone, and plays as a diary says.

    Args:
        diary: of a run of many.
        number: of the user who plays now.
    """

    peeks = True

    def __init__(self, diary: Diary, number: int) -> None:
        self._values = iter(diary.values)
        self._lags = dict(diary.lags)
        self._number = number
        self._steps = 0

    def pick(self, keys: Sequence[int]) -> int:
        """The next of the diary."""
        return min(next(self._values, 0), len(keys) - 1)

    def lag(self) -> float:
        """For how long the machine does something else now."""
        return self._lags.pop(self._steps, 0.0)

    def peek(self, ready: Ready, lane: Lane) -> None:
        """Count this user's steps."""
        handle = ready.next_of(lane)
        if handle is None or ready.works_for(handle) == self._number:
            self._steps += 1
