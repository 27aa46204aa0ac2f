"""Quantiles and their bounds are exact."""

from fractions import Fraction
from math import comb, exp, inf, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.latency.quantile import (
    binomial_cdf,
    binomial_sf,
    estimates,
    least_samples,
    log_betainc,
    nearest_rank,
    quantile_bounds,
)

probabilities = st.fractions(min_value=Fraction(1, 1000), max_value=Fraction(999, 1000), max_denominator=1000)


def exact_cdf(k: int, n: int, p: Fraction) -> Fraction:
    return sum((comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), Fraction(0))


@given(st.integers(1, 60), st.data(), probabilities)
def test_binomial_tails_agree_with_the_exact_sum(n, data, p):
    """Both tails are the sum of exact fractions, to eleven digits."""
    k = data.draw(st.integers(0, n))
    exact = exact_cdf(k, n, p)
    assert isclose(binomial_cdf(k, n, float(p)), exact, rel_tol=1e-11, abs_tol=1e-300)
    assert isclose(binomial_sf(k + 1, n, float(p)), 1 - exact, rel_tol=1e-9, abs_tol=1e-15)


def test_a_tail_far_out_keeps_its_digits():
    """A tail of 1e-52 is not rounded to nothing."""
    exact = sum(comb(40, i) * Fraction(1, 20) ** i * Fraction(19, 20) ** (40 - i) for i in range(40, 41))
    assert isclose(binomial_sf(40, 40, 0.05), float(exact), rel_tol=1e-9)


@pytest.mark.parametrize(("x", "expected"), [(0.0, -inf), (1.0, 0.0), (-1.0, -inf), (2.0, 0.0)])
def test_the_incomplete_beta_function_ends_at_zero_and_one(x, expected):
    """Outside (0, 1) it is constant."""
    assert log_betainc(2, 3, x) == expected


@given(st.floats(0.5, 500), st.floats(0.5, 500), st.floats(0.001, 0.999))
def test_the_incomplete_beta_function_is_symmetric(a, b, x):
    """I_x(a, b) and I_1-x(b, a) share out the whole."""
    assert isclose(exp(log_betainc(a, b, x)) + exp(log_betainc(b, a, 1 - x)), 1.0, abs_tol=1e-8)


@pytest.mark.parametrize(("q", "n", "expected"), [(0.5, 4, 2), (0.5, 5, 3), (0.95, 20, 19), (0.95, 100, 95), (1, 7, 7)])
def test_nearest_rank_takes_the_smallest_sample_that_covers_the_share(q, n, expected):
    """The 95th of a hundred is p95, not the 96th."""
    assert nearest_rank(list(range(1, n + 1)), q) == expected


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0.01, 1))
def test_nearest_rank_covers_the_share_and_one_rank_less_does_not(samples, q):
    """That is what makes it a quantile."""
    ordered = sorted(samples)
    value = nearest_rank(ordered, q)
    assert sum(s <= value for s in ordered) >= q * len(ordered) - 1e-6
    assert sum(s < value for s in ordered) < q * len(ordered) + 1e-6


@pytest.mark.parametrize(("q", "confidence"), [(0.0, 0.99), (1.0, 0.99), (0.5, 0.0), (0.5, 1.0)])
def test_bounds_refuse_what_is_no_quantile_and_no_confidence(q, confidence):
    """Both lie strictly between 0 and 1."""
    with pytest.raises(ValueError, match="lie in"):
        quantile_bounds([1.0], q, confidence)


def test_nothing_has_no_quantile():
    """No samples are an error, not zero."""
    with pytest.raises(ValueError, match="nothing"):
        nearest_rank([], 0.5)
    with pytest.raises(ValueError, match="nothing"):
        quantile_bounds([], 0.5)
    with pytest.raises(ValueError, match="quantile lies"):
        nearest_rank([1.0], 0)


@given(st.integers(1, 400), probabilities)
def test_bounds_are_the_narrowest_ranks_with_the_coverage(n, q):
    """Each side leaves at most half a per cent outside, and one rank further in would leave more."""
    low, high = quantile_bounds([float(i) for i in range(1, n + 1)], float(q), 0.99)
    if low > -inf:
        assert binomial_cdf(int(low) - 1, n, float(q)) <= 0.005 + 1e-12
    inner = 1 if low == -inf else int(low) + 1
    assert binomial_cdf(inner - 1, n, float(q)) > 0.005 - 1e-12
    if high < inf:
        assert binomial_sf(int(high), n, float(q)) <= 0.005 + 1e-12
        assert binomial_sf(int(high) - 1, n, float(q)) > 0.005 - 1e-12


def test_a_side_without_support_is_infinite():
    """Twenty samples say nothing of how high p95 may lie."""
    bounds = quantile_bounds([float(i) for i in range(20)], 0.95)
    assert bounds.high == inf
    assert bounds.low > -inf


@pytest.mark.parametrize(
    ("n", "shown"), [(1, []), (2, [0.5]), (19, [0.5]), (20, [0.5, 0.95]), (99, [0.5, 0.95]), (100, [0.5, 0.95, 0.99])]
)
def test_a_quantile_is_shown_only_with_enough_samples(n, shown):
    """Below that it would be the maximum under another name."""
    assert [estimate.quantile for estimate in estimates([0.001] * n)] == shown


@pytest.mark.parametrize(("q", "least"), [(0.5, 2), (0.9, 10), (0.95, 20), (0.99, 100), (0.999, 1000), (1, 1)])
def test_least_samples_is_the_reciprocal_of_the_tail(q, least):
    """One in so many may exceed the quantile."""
    assert least_samples(q) == least
