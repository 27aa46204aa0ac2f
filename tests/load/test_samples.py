"""Latencies in bounded memory."""

import random
from math import inf

import pytest

from pytest_isolation.latency.quantile import nearest_rank
from pytest_isolation.load.samples import Samples


def filled(values, exact):
    samples = Samples(exact)
    for value in values:
        samples.add(value)
    return samples


def test_few_are_kept_exactly():
    samples = filled([0.3, 0.1, 0.2], exact=3)
    assert samples.is_exact
    assert list(samples.ordered) == [0.1, 0.2, 0.3]


def test_many_are_kept_in_bins_that_are_true_to_one_percent():
    chance = random.Random(5)
    values = [chance.lognormvariate(-5, 1.5) for _ in range(5000)]
    samples = filled(values, exact=1000)
    assert not samples.is_exact
    assert len(samples) == 5000
    for q in (0.01, 0.5, 0.95, 0.99, 1):
        assert nearest_rank(samples.ordered, q) == pytest.approx(nearest_rank(sorted(values), q), rel=0.01)
    assert samples.longest_s == max(values)


def test_bins_can_be_read_like_a_sorted_list():
    samples = filled([0.0, 1e-3, 1e-3, 2.0], exact=1)
    ordered = samples.ordered
    assert list(ordered) == sorted(ordered)
    assert ordered[-1] == ordered[3] == pytest.approx(2, rel=0.01)
    assert list(ordered[1:3]) == [ordered[1], ordered[2]]
    with pytest.raises(IndexError):
        ordered[4]


@pytest.mark.parametrize(
    ("count", "names"), [(0, []), (1, []), (2, [0.5]), (19, [0.5]), (20, [0.5, 0.95]), (100, [0.5, 0.95, 0.99])]
)
def test_no_quantile_comes_from_too_few(count, names):
    """A p95 of fewer than 20 is their maximum under another name."""
    found = [estimate.quantile for estimate in filled([0.1] * count, exact=1000).estimates]
    assert found == names


@pytest.mark.parametrize("exact", [1000, 10])
def test_an_attempt_that_failed_took_for_ever(exact):
    """Otherwise a target could improve its quantiles by failing fast."""
    estimates = {e.quantile: e for e in filled([0.01] * 90 + [inf] * 10, exact).estimates}
    assert estimates[0.5].value_s == pytest.approx(0.01, rel=0.01)
    assert estimates[0.95].value_s == inf
    assert filled([0.01, inf], exact).longest_s == 0.01
