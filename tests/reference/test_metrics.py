"""Every operation is counted; a share of them, all errors and all critical ones are kept in detail."""

import asyncio
import itertools
import math
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.metrics import EDGES_S, OVERFLOW, ROUND_S, Metrics, Series


@pytest.fixture
def metrics():
    return Metrics(sample_rate=0.0)


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


@pytest.mark.asyncio
async def test_a_block_is_timed_with_and_without_async(metrics):
    """The same object does both."""
    with metrics.timed_operation("job"):
        pass
    async with metrics.timed_operation("job", {"kind": "slow"}):
        await asyncio.sleep(0.01)
    plain, tagged = metrics
    assert (plain.count, plain.tags) == (1, ())
    assert (tagged.count, tagged.tags) == (1, (("kind", "slow"),))
    assert tagged.sum_s > plain.sum_s


@pytest.mark.asyncio
async def test_an_error_passes_through_and_is_always_kept(metrics):
    """Also where nothing else is kept in detail."""
    for _ in range(100):
        with pytest.raises(KeyError):
            async with metrics.timed_operation("job"):
                raise KeyError("k")
    assert metrics.series("job").errors == 100
    assert [detail.error for detail in metrics.details("job")] == ["KeyError"] * 100


@pytest.mark.asyncio
async def test_a_cancellation_is_no_error(metrics):
    """The user has gone away."""

    async def job():
        async with metrics.timed_operation("job"):
            await asyncio.sleep(60)

    task = asyncio.create_task(job())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    series = metrics.series("job")
    assert (series.count, series.errors, series.cancelled, metrics.details()) == (1, 0, 1, [])


def test_critical_operations_are_always_kept(metrics):
    """Others only by chance, which is nil here."""
    with metrics.timed_operation("payment", critical=True):
        pass
    metrics.record("payment", 0.5, critical=True)
    metrics.record("payment", 0.5)
    assert len(metrics.details("payment")) == 2


def test_a_tenth_is_kept_in_detail_and_all_are_counted():
    """A count is never scaled up from a sample."""
    metrics = Metrics(sample_rate=0.1)
    for _ in range(10_000):
        metrics.record("job", 0.001)
    assert metrics.series("job").count == 10_000
    assert 700 < len(metrics.details()) < 1300


def test_details_are_bounded_and_the_latest_stay():
    """An hour of errors fits into ten megabytes."""
    metrics = Metrics(sample_rate=1.0, details=3)
    for n in range(10):
        metrics.record(f"job-{n}", 0.001)
    assert [detail.name for detail in metrics.details()] == ["job-7", "job-8", "job-9"]


def test_an_hour_at_2000_operations_a_second_fits_into_ten_megabytes():
    """Nine operations, a tenth in detail: what is kept does not grow with the time."""
    tracemalloc.start()
    try:
        metrics = Metrics(sample_rate=1.0)  # as many details as in an hour at a tenth, and more
        for n in range(100_000):
            metrics.record(f"operation.{n % 9}", 0.001 + n * 1e-8, {"endpoint": f"/{n % 5}"})
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size < 10 * 1024 * 1024


def test_an_id_in_a_tag_does_not_eat_the_memory():
    """What comes too late goes to one series, which says so by its name."""
    metrics = Metrics(most_series=10)
    for n in range(100):
        metrics.record("job", 0.001, {"user": str(n)})
        metrics.count("seen", tags={"user": str(n)})
        metrics.gauge("level", n, {"user": str(n)})
    assert len(list(metrics)) == 11
    assert metrics.series("job", {"user": "99"}).name == OVERFLOW
    assert metrics.series(OVERFLOW).count == 90
    assert metrics.counters[OVERFLOW, ()] == 90
    assert len(metrics.gauges) == 11


def test_the_order_of_tags_means_nothing(metrics):
    """Two spellings are one series."""
    one = metrics.series("job", {"a": "1", "b": "2"})
    assert metrics.series("job", {"b": "2", "a": "1"}) is one


def test_a_counter_never_falls(metrics):
    """Or rates would be wrong."""
    metrics.count("seen")
    metrics.count("seen", 2)
    assert metrics.counters["seen", ()] == 3
    with pytest.raises(ValueError, match="cannot fall"):
        metrics.count("seen", -1)


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_what_is_no_duration_is_refused(metrics, seconds):
    """Named by its operation."""
    with pytest.raises(ValueError, match="job took"):
        metrics.record("job", seconds)


def test_a_rate_is_a_share():
    """Ten percent is 0.1."""
    with pytest.raises(ValueError, match="a share from 0 to 1, not 10"):
        Metrics(sample_rate=10)


def test_two_backends_share_nothing(metrics):
    """Each has measurements of its own."""
    metrics.record("job", 0.001)
    assert list(Metrics()) == []
