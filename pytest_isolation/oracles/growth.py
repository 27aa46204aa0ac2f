"""Memory that grows with the runs of a body: a slope that no single peak moves, and a trend that chance hardly makes.

The slope is Theil and Sen's, the median of the slopes of all pairs; whether there is a trend at all says Mann and
Kendall's tau, the share of pairs that rise less the share that fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

LEAST_ROUNDS = 8
"""So few readings cannot accuse: of fewer, chance makes a tau above the threshold once in sixty times or oftener."""
LEAST_RUNS = 1000
"""Fewer runs cannot clear: the budget is one per 1000 runs, and what grows once in 500 would not have shown."""
LEAST_PROOF_BYTES = 1024**2
"""Nor do fewer accuse, which a cache may take to fill, unless what stayed of them is as much as this."""
LEAST_BYTES = 512
"""Less than that in all readings together may be the interpreter's own: a table that grows, a number above 256."""
TREND = 0.6
"""Twelve readings in random order have a tau above it three times in a thousand."""
_LAST = 3


@dataclass(frozen=True, slots=True)
class Trend:
    """How memory went from round to round.

    Attributes:
        per_thousand_bytes: the slope, for every 1000 runs.
        tau: from -1, it falls from each round to the next, to 1, it rises.
        rounds: how many readings.
        runs: how many runs came before each.
    """

    per_thousand_bytes: float
    tau: float
    rounds: int
    runs: int

    @property
    def in_all_bytes(self) -> float:
        """What stayed of all these rounds."""
        return self.per_thousand_bytes / 1000 * self.runs * self.rounds

    def is_over(self, limit_bytes: float) -> bool:
        """Memory grows by more than so many bytes per 1000 runs, as far as these readings tell."""
        grows = self.rounds >= LEAST_ROUNDS and self.tau > TREND and self.in_all_bytes >= LEAST_BYTES
        return grows and self.per_thousand_bytes > limit_bytes


def trend(readings: Sequence[int], runs: int) -> Trend:
    """The trend of the bytes that were held after each round.

    Args:
        readings: bytes, in order.
        runs: how many runs came before each.
    """
    return Trend(theil_sen(readings) * 1000 / runs, tau(readings), len(readings), runs)


def last_third(readings: Sequence[int]) -> Sequence[int]:
    """The readings that count once more runs were made: what has filled up by then is no leak."""
    return readings[-max(1, len(readings) // _LAST) :]


def theil_sen(values: Sequence[float]) -> float:
    """The median of the slopes of all pairs; 0 where there is no pair."""
    slopes = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in _pairs(values)]
    return median(slopes) if slopes else 0.0


def tau(values: Sequence[float]) -> float:
    """The share of pairs that rise less the share that fall (Mann and Kendall); 0 where there is no pair."""
    signs = [(later[1] > earlier[1]) - (later[1] < earlier[1]) for earlier, later in _pairs(values)]
    return sum(signs) / len(signs) if signs else 0.0


def _pairs(values: Sequence[float]) -> combinations[tuple[tuple[int, float], tuple[int, float]]]:
    return combinations(enumerate(values), 2)
