"""Evidence that a quantile is over its budget, and that it is within: pure arithmetic on two counters.

``p95 ≤ B`` is exactly ``P(latency > B) ≤ 5 %``, so n samples with k of them over B are all there is to know. The
evidence on either side is a test martingale, the likelihood ratio of a truncated Beta mixture against the boundary
p0 = 1 - q (Robbins 1970; Ramdas et al., *Game-theoretic statistics and safe anytime-valid inference*, 2023). By
Ville's inequality it reaches 1/alpha with probability at most alpha *at any time*: batches, caps and "a few more
samples" cost nothing.
"""

from __future__ import annotations

from math import lgamma, log, log1p

from pytest_isolation.latency.quantile import log_betainc


class ExceedanceTest:
    """Two one-sided mixture martingales for "a share of at most 1 - q exceeds the budget".

    Args:
        q: the quantile, 0 < q < 1. The mixture is Beta with mean 1 - q and the weight of 20 pseudo-samples, more
            for quantiles beyond p95, truncated to its side of the boundary.
    """

    __slots__ = ("_a", "_b", "_log_mass_above", "_log_mass_below", "_log_norm", "_log_p", "_log_q", "p0")

    def __init__(self, q: float) -> None:
        strength = max(20.0, 1 / (1 - q))
        self.p0 = 1 - q
        self._a, self._b = self.p0 * strength, q * strength
        self._log_p, self._log_q = log(self.p0), log1p(-self.p0)
        self._log_norm = lgamma(self._a) + lgamma(self._b) - lgamma(self._a + self._b)
        self._log_mass_above = log_betainc(self._b, self._a, 1 - self.p0)
        self._log_mass_below = log_betainc(self._a, self._b, self.p0)

    def log_evidence(self, over: float, n: float) -> tuple[float, float]:
        """Evidence that the quantile is over, and that it is within, as natural logarithms.

        Args:
            over: how many samples exceeded the budget; a fraction after deflation.
            n: how many there were.
        """
        ratio = self._log_ratio(over, n)
        return ratio + self._log_share_above(over, n), ratio + self._log_share_below(over, n)

    def shows_over(self, over: float, n: float, log_least: float) -> bool:
        """Whether the evidence that the quantile is over is as much as that; quick where it is not.

        Args:
            over: how many samples exceeded the budget.
            n: how many there were.
            log_least: natural logarithm of the evidence that is asked for, > 0.
        """
        # Of no more exceedances than are allowed no part of the mixture makes evidence; and it never is more than that
        # of the whole mixture, not truncated to its side.
        if over <= n * self.p0:
            return False
        ratio = self._log_ratio(over, n)
        return ratio - self._log_mass_above >= log_least and ratio + self._log_share_above(over, n) >= log_least

    def shows_within(self, over: float, n: float, log_least: float) -> bool:
        """The same for the evidence that it is within."""
        if over >= n * self.p0:
            return False
        ratio = self._log_ratio(over, n)
        return ratio - self._log_mass_below >= log_least and ratio + self._log_share_below(over, n) >= log_least

    def _log_ratio(self, over: float, n: float) -> float:
        """The likelihood ratio of the whole mixture."""
        a, b = self._a + over, self._b + n - over
        return lgamma(a) + lgamma(b) - lgamma(a + b) - self._log_norm - over * self._log_p - (n - over) * self._log_q

    def _log_share_above(self, over: float, n: float) -> float:
        """What of it comes from above the boundary, over what of the mixture lies there."""
        return log_betainc(self._b + n - over, self._a + over, 1 - self.p0) - self._log_mass_above

    def _log_share_below(self, over: float, n: float) -> float:
        """What of it comes from below, likewise."""
        return log_betainc(self._a + over, self._b + n - over, self.p0) - self._log_mass_below


class Dispersion:
    """How much more exceedances vary from block to block than those of independent samples would.

    A burst of slow samples is one fact, not twenty. It is Pearson's statistic over single blocks and over triples of
    them, the larger of the two; kept as sums, so that a look costs the same after any number of blocks.
    """

    __slots__ = ("_sums", "_triple")

    def __init__(self) -> None:
        # Each: how many blocks, their samples, their exceedances, the sum of exceedances² / samples.
        self._sums: tuple[list[float], list[float]] = ([0, 0, 0, 0.0], [0, 0, 0, 0.0])
        self._triple = [0, 0, 0]

    def add(self, n: int, over: int) -> None:
        """Take a consecutive stretch of samples.

        Args:
            n: how many, ≥ 1.
            over: how many of them exceeded the budget.
        """
        singles, triples = self._sums
        _add(singles, n, over)
        blocks, samples, exceedances = self._triple
        self._triple = [blocks + 1, samples + n, exceedances + over]
        if blocks == 2:
            _add(triples, samples + n, exceedances + over)
            self._triple = [0, 0, 0]

    @property
    def factor(self) -> float:
        """By how much samples count as fewer, at least 1."""
        return max(1.0, *map(_pearson, self._sums))


def _add(sums: list[float], n: int, over: int) -> None:
    sums[0] += 1
    sums[1] += n
    sums[2] += over
    sums[3] += over * over / n


def _pearson(sums: list[float]) -> float:
    blocks, n, over, squares = sums
    if blocks < 2:  # there is nothing to compare
        return 1.0
    smooth = (over + 0.5) / (n + 1)
    return (squares - over * over / n) / (smooth * (1 - smooth)) / (blocks - 1)
