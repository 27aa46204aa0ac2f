"""A series counts every duration, and its quantiles are true to one percent."""

import itertools
import math
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.series import EDGES_S, ROUND_S, Series


def filled(durations):
    series = Series("x")
    for seconds in durations:
        series.add(seconds)
    return series


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_true_to_one_percent(durations, q):
    """Nearest rank, whatever the distribution."""
    exact = sorted(durations)[math.ceil(round(q * len(durations), 9)) - 1]
    assert filled(durations).quantile(q) == pytest.approx(exact, rel=0.0101)


@given(st.lists(st.floats(0, 2000), max_size=100), st.sampled_from(ROUND_S))
def test_counts_at_round_edges_are_exact(durations, edge):
    """Budgets lie on edges: a bucket that ends at 10 ms ends there."""
    assert filled(durations).counts_up_to([edge, 1e9]) == [sum(s <= edge for s in durations), len(durations)]


def test_bins_are_ascending_and_never_wider_than_two_percent():
    """Apart from what is below 100 ns and above 1000 s."""
    assert all(low < high <= low * 1.0201 for low, high in itertools.pairwise(EDGES_S))


def test_what_is_out_of_range_is_counted_all_the_same():
    """At its end of the range."""
    series = filled([0.0, 1e-9, 5000.0])
    assert series.count == 3
    assert series.quantile(1.0) == pytest.approx(1000.0)


def test_nothing_has_no_quantile():
    """None is not zero."""
    assert Series("x").quantile(0.5) is None
    with pytest.raises(ValueError, match=r"lies in \(0, 1\]"):
        Series("x").quantile(95)


def test_a_series_takes_less_than_64_kilobytes():
    """For an hour or for a year, at two thousand operations a second."""
    rng = random.Random(1)
    durations = [rng.lognormvariate(-7, 1) for _ in range(20_000)]
    tracemalloc.start()
    try:
        series = Series("x")
        for seconds in durations:
            series.add(seconds)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert series.count == 20_000
    assert size < 64 * 1024


def test_a_copy_does_not_change():
    """So that figures read from it agree with one another."""
    series = filled([0.1, 0.2])
    series.errors, series.cancelled = 2, 1
    copy = series.copy()
    series.add(5.0)
    assert (copy.count, copy.errors, copy.cancelled) == (2, 2, 1)
    assert (copy.sum_s, copy.counts_up_to([0.1, 10.0])) == (pytest.approx(0.3), [1, 2])


def test_what_is_recent_forgets_what_came_before_the_last_window():
    """Counts do not: Prometheus adds them up by itself."""
    series = filled([0.001] * 1000)
    series.rotate()
    for _ in range(10):
        series.add(0.1)
    assert (series.recent().count, series.recent().quantile(0.95)) == (1010, pytest.approx(0.001, rel=0.01))
    series.rotate()
    assert series.recent().count == 10
    assert series.recent().quantile(0.5) == pytest.approx(0.1, rel=0.01)
    assert (series.count, series.counts_up_to([0.001])) == (1010, [1000])
    series.rotate()
    assert series.recent().count == 0
