"""How much work lay about at which time, and whether it was still growing when users ceased to come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

_STEPS = 60
_SHARE = 0.02
_LEAST = 10


class Backlog:
    """What was due and not done, over the time of a phase.

    Args:
        seconds: how long the phase lasts.
    """

    __slots__ = ("_done", "_due", "_step_s")

    def __init__(self, seconds: float) -> None:
        self._step_s = seconds / _STEPS
        self._due, self._done = [0] * _STEPS, [0] * _STEPS

    def due(self, at_s: float) -> None:
        """Somebody was to come at this time of the phase, whether it could or not."""
        self._count(self._due, at_s)

    def done(self, at_s: float) -> None:
        """Somebody had its answer, or had failed, at this time of the phase."""
        self._count(self._done, at_s)

    def curve(self, until_s: float | None = None) -> list[int]:
        """How much was due and not done after each sixtieth of the phase.

        Args:
            until_s: the phase was broken off at this time.
        """
        whole = _STEPS if until_s is None else min(_STEPS, int(until_s / self._step_s))
        return list(accumulate(due - done for due, done in zip(self._due[:whole], self._done[:whole], strict=True)))

    def is_growing(self, until_s: float | None = None) -> bool:
        """Users came faster than they were served, to the end.

        That is: over the last two thirds of the phase (the first third fills what is under way at any time) the
        least-squares slope of the backlog exceeds 2 % of the rate at which users came, and amounts to 10 of them; and
        it goes up from each quarter of that time to the next, which one stall alone cannot do.

        Args:
            until_s: the phase was broken off at this time.
        """
        curve = self.curve(until_s)
        tail = curve[len(curve) // 3 :]
        offered = sum(self._due[: len(curve)]) / max(1, len(curve))
        rise = slope(tail) * len(tail)
        if rise <= _SHARE * offered * len(tail) or rise < _LEAST:
            return False
        quarters = [_mean(tail[quarter * len(tail) // 4 : (quarter + 1) * len(tail) // 4]) for quarter in range(4)]
        return all(later - earlier >= rise / 10 for earlier, later in pairwise(quarters))

    def _count(self, steps: list[int], at_s: float) -> None:
        step = int(at_s / self._step_s)
        if step < _STEPS:
            steps[step] += 1


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def slope(values: Sequence[float], at: Sequence[float] | None = None) -> float:
    """The least-squares slope of values; 0 where there is none.

    Args:
        values: in order.
        at: where each stands; None is one after another.
    """
    places = range(len(values)) if at is None else at
    if len(values) < 2:
        return 0.0
    middle, mean = sum(places) / len(values), sum(values) / len(values)
    spread = sum((place - middle) ** 2 for place in places)
    if not spread:
        return 0.0
    return sum((place - middle) * (value - mean) for place, value in zip(places, values, strict=True)) / spread
