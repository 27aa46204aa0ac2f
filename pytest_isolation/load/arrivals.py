"""When users come, fixed before anything begins: an arrival waits for no answer, so a stall cannot hide behind it.

Every user's time is cut into slots as long as its pause, and it comes once in each, at a random place. So the rate is
right whatever chance does, no two users march in step, and the sum of many users is close to independent arrivals.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random
from typing import NamedTuple

from pytest_isolation.load.plan import Mix, Operation


class Arrival(NamedTuple):
    """One thing that a user is going to do.

    Attributes:
        due_s: when, in seconds from the beginning of the phase.
        operation: what.
    """

    due_s: float
    operation: Operation


def arrivals(chance: Random, seconds: float, pause_s: float, mix: Mix, at_once: bool = False) -> Iterator[Arrival]:
    """All arrivals of one user in one phase, in order; the same for the same seed.

    Args:
        chance: draws places and operations.
        seconds: how long the phase lasts.
        pause_s: the length of a slot.
        mix: how often the user does what.
        at_once: the first arrival is at 0.
    """
    names, weights = list(mix), list(mix.values())
    for slot in count():
        if slot * pause_s >= seconds:
            return
        place, [operation] = chance.random(), chance.choices(names, weights)
        due_s = 0.0 if at_once and slot == 0 else (slot + place) * pause_s
        if due_s < seconds:
            yield Arrival(due_s, operation)
