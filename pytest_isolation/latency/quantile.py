"""Quantiles by order statistics, with exact bounds.

For independent samples the number that fall below the true q-quantile is Binomial(n, q), so two order statistics
bracket it with a coverage that can be computed, whatever the distribution (David & Nagaraja, Order Statistics, §7.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, exp, inf, lgamma, log, log1p

from pytest_isolation.verdicts import Estimate, Interval

CONFIDENCE = 0.99
SHOWN = (0.5, 0.95, 0.99)


def nearest_rank(ordered: Sequence[float], q: float) -> float:
    """The q-quantile by nearest rank: the smallest sample with at least a share q at or below it.

    Args:
        ordered: samples, ascending; n ≥ 1.
        q: the quantile, 0 < q ≤ 1.

    Raises:
        ValueError: q is out of range, or there is no sample.
    """
    if not ordered:
        raise ValueError("no samples: a quantile of nothing is nothing")
    if not 0 < q <= 1:
        raise ValueError(f"a quantile lies in (0, 1], not at {q!r}")
    # The round() keeps 0.95 * 20 == 19.000000000000004 from becoming rank 20.
    return ordered[ceil(round(q * len(ordered), 9)) - 1]


def least_samples(q: float) -> int:
    """How many samples it takes before a q-quantile is more than the maximum under another name.

    >>> least_samples(0.95), least_samples(0.99)
    (20, 100)
    """
    return 1 if q == 1 else ceil(round(1 / (1 - q), 9))


def quantile_bounds(ordered: Sequence[float], q: float, confidence: float = CONFIDENCE) -> Interval:
    """Bracket the q-quantile of the distribution behind ``ordered``.

    Args:
        ordered: samples in seconds, ascending; n ≥ 1.
        q: the quantile, 0 < q < 1.
        confidence: two-sided coverage, 0 < confidence < 1.

    Returns:
        The pair of order statistics that leaves at most half of ``1 - confidence`` on either side; a side that
        n samples cannot support is infinite.

    Raises:
        ValueError: q or confidence is out of range, or there is no sample.
    """
    n = len(ordered)
    if not n:
        raise ValueError("no samples: there is nothing to bracket")
    if not (0 < q < 1 and 0 < confidence < 1):
        raise ValueError(f"a quantile and a confidence lie in (0, 1), not at {q!r} and {confidence!r}")
    tail = (1 - confidence) / 2
    # Ranks are 1-based; the first rank whose lower tail is too heavy ends the lower side.
    low = _first(lambda rank: binomial_cdf(rank - 1, n, q) > tail, 1, n + 1) - 1
    high = _first(lambda rank: binomial_sf(rank, n, q) <= tail, 1, n + 1)
    return Interval(ordered[low - 1] if low >= 1 else -inf, ordered[high - 1] if high <= n else inf)


def estimates(samples_s: Sequence[float], judged: float = 0.5) -> tuple[Estimate, ...]:
    """p50, p95, p99 and the judged quantile of the samples, each only where there are enough of them to mean something.

    Args:
        samples_s: in seconds, in any order.
        judged: 0 < judged ≤ 1; of the maximum nothing but itself is known, so its interval is open above.
    """
    ordered = sorted(samples_s)
    return tuple(
        Estimate(q, nearest_rank(ordered, q), quantile_bounds(ordered, q) if q < 1 else Interval(ordered[-1], inf))
        for q in sorted({*SHOWN, judged})
        if len(ordered) >= least_samples(q)
    )


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Binomial(n, p) ≤ k)."""
    return 1.0 if k >= n else exp(log_betainc(n - k, k + 1, 1 - p))


def binomial_sf(k: int, n: int, p: float) -> float:
    """P(Binomial(n, p) ≥ k)."""
    if k <= 0:
        return 1.0
    return 0.0 if k > n else exp(log_betainc(k, n - k + 1, p))


def log_betainc(a: float, b: float, x: float) -> float:
    """Natural logarithm of the regularised incomplete beta function I_x(a, b), accurate in both tails.

    Source: DLMF §8.17, the continued fraction 8.17.22 and the reflection 8.17.4.
    """
    if x <= 0:
        return -inf
    if x >= 1:
        return 0.0
    front = lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)
    # The fraction converges fast only below the mean; above it, take the other tail.
    if x < (a + 1) / (a + b + 2):
        return front + log(_beta_fraction(a, b, x)) - log(a)
    other_tail = exp(front + log(_beta_fraction(b, a, 1 - x)) - log(b))
    return log1p(-min(other_tail, 1 - 1e-16))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """DLMF 8.17.22, evaluated by Lentz's method (Thompson & Barnett 1986)."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or _TINY)
    value = d
    for m in range(1, 500):
        twice = a + 2 * m
        step = m * (b - m) * x / ((twice - 1) * twice)
        d = 1 / (1 + step * d or _TINY)
        c = 1 + step / c or _TINY
        value *= c * d
        step = -(a + m) * (a + b + m) * x / (twice * (twice + 1))
        d = 1 / (1 + step * d or _TINY)
        c = 1 + step / c or _TINY
        value *= (turn := c * d)
        if -1e-12 < turn - 1 < 1e-12:
            break
    return value


_TINY = 1e-300  # in place of zero, by which nothing can be divided


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first integer of [low, high) for which ``holds``, which is false, then true; ``high`` if none."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
