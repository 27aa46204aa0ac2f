"""Is the new one slower than the old one? Judged pair by pair, so that whatever the machine does it does to both.

Two test martingales (``evidence``), each with half of alpha:

- in how many pairs the new one takes more than the tolerance longer. If it is no slower than that in the middle, that
  is at most every second pair (a sign test, valid at any time);
- of the calls that differ by more than 30 % from the tolerance, in how many the new one is the slower. If it is within
  the tolerance, that is at most a fair coin; it sees what the first one cannot, four calls in a hundred that take three
  times as long.

Two runs at different times, or a stored baseline, carry the drift of the machine: a factor of two within a day was
measured. Pairs that alternate (ABBA) do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log
from statistics import median

from pytest_isolation.latency.evidence import ExceedanceTest
from pytest_isolation.latency.quantile import quantile_bounds
from pytest_isolation.verdicts import Comparison, Interval, Outcome

ALPHA = 1e-4
ALPHA_SAME = 1e-2
DISCORDANT = 1.3
_LEAST = 20
_LEAST_DISCORDANT = 10
_LOOK = 5


class Pairs:
    """Takes pairs of latencies until it is proven that the new one is slower.

    Args:
        tolerance: how much longer it may take, as a share: 0.05 is 5 %.

    Attributes:
        calls: how many calls of each there are in a pair.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.calls = 1
        self.slower = self.discordant = self.discordant_slower = 0
        self._ratios: list[float] = []
        self._old_s: list[float] = []
        self._new_s: list[float] = []
        self._test = ExceedanceTest(0.5)

    def __len__(self) -> int:
        return len(self._ratios)

    def begin_again(self) -> None:
        """Forget all pairs: what they say is to be confirmed by others."""
        self.slower = self.discordant = self.discordant_slower = 0
        for some in (self._ratios, self._old_s, self._new_s):
            some.clear()

    def add(self, old_s: float, new_s: float) -> None:
        """Take a pair.

        Args:
            old_s: what the old one took, without what the machine added.
            new_s: what the new one took, likewise.
        """
        self.add_calls([old_s], [new_s])

    def add_calls(self, old_s: Sequence[float], new_s: Sequence[float]) -> None:
        """Take a pair of several calls each, of which the medians count; in their tails each counts for itself.

        Args:
            old_s: what calls of the old one took, without what the machine added.
            new_s: what as many of the new one took, in turn with them.
        """
        old, new = median(old_s), median(new_s)
        self._ratios.append(_ratio(old, new))
        self._old_s.append(old)
        self._new_s.append(new)
        self.slower += self._ratios[-1] > 1 + self.tolerance
        self.calls = len(old_s)
        for ratio in (_ratio(old * (1 + self.tolerance), new) for old, new in zip(old_s, new_s, strict=True)):
            if not 1 / DISCORDANT <= ratio <= DISCORDANT:
                self.discordant += 1
                self.discordant_slower += ratio > 1

    @property
    def is_slower(self) -> bool:
        """It is proven that the new one is slower; looked at after every fifth pair."""
        if len(self) % _LOOK or len(self) < _LEAST:
            return False
        return bool(self._proofs())

    def _proofs(self) -> list[str]:
        proven = -log(ALPHA / 2)
        found = []
        if len(self) >= _LEAST and self._test.log_evidence(self.slower, len(self))[0] >= proven:
            found.append(f"in {self.slower} of {len(self)} pairs by more than {self.tolerance * 100:g} %")
        if (
            self.discordant >= _LEAST_DISCORDANT
            and self._test.log_evidence(self.discordant_slower, self.discordant)[0] >= proven
        ):
            found.append(
                f"in {self.discordant_slower} of the {self.discordant} pairs that differ by more than "
                f"{(DISCORDANT - 1) * 100:.0f} %" + (", call by call" if self.calls > 1 else "")
            )
        return found

    def comparison(self, name: str) -> Comparison:
        """What the pairs prove.

        Args:
            name: of what was compared.
        """
        ordered = sorted(self._ratios)
        outcome, reason = self._outcome()
        return Comparison(
            name=name,
            outcome=outcome,
            pairs=len(self),
            old_s=median(self._old_s) if ordered else 0.0,
            new_s=median(self._new_s) if ordered else 0.0,
            ratio=median(ordered) if ordered else 1.0,
            interval=quantile_bounds(ordered, 0.5) if ordered else Interval(0.0, float("inf")),
            tolerance=self.tolerance,
            slower=self.slower,
            reason=reason,
            calls=self.calls,
        )

    def _outcome(self) -> tuple[Outcome, str]:
        if proofs := self._proofs():
            return Outcome.FAIL, ", and ".join(proofs)
        if len(self) < _LEAST:
            return Outcome.UNDECIDED, f"too few pairs: {len(self)}, and {_LEAST} are the least"
        if self._test.log_evidence(self.slower, len(self))[1] >= -log(ALPHA_SAME):
            return Outcome.PASS, f"in {self.slower} of {len(self)} pairs by more than {self.tolerance * 100:g} %"
        return Outcome.UNDECIDED, f"too close to the tolerance to tell after {len(self)} pairs"


def _ratio(old_s: float, new_s: float) -> float:
    return max(new_s, 1e-9) / max(old_s, 1e-9)  # a clock may well stand still


def turns(limit: int) -> Iterator[bool]:
    """Whether the new one goes first: ABBA, so that a drift within a pair cancels out.

    Args:
        limit: how many pairs.
    """
    for number in range(limit):
        yield number % 4 in (1, 2)
