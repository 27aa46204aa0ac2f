"""Every operation is counted; a share of them, all errors and all critical ones are kept in detail."""

import asyncio
import itertools
import math
import sys
import threading
import tracemalloc

import pytest

from reference_impl.metrics import OVERFLOW, OVERFLOW_TAGS, Metrics


@pytest.fixture
def metrics():
    return Metrics(sample_rate=0.0)


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


def test_ordinary_samples_do_not_push_out_errors_and_critical_operations():
    """A bad minute is still there after a busy hour."""
    metrics = Metrics(sample_rate=1.0, details=3)
    metrics.record("job", 0.001, error=KeyError)
    metrics.record("payment", 0.001, critical=True)
    for _ in range(100):
        metrics.record("job", 0.001)
    assert [(detail.name, detail.error) for detail in metrics.details()][:2] == [("job", "KeyError"), ("payment", "")]
    assert len(metrics.details()) == 2 + 3


def test_details_come_in_the_order_of_time(monkeypatch):
    """Errors between what was ordinary, though they are kept elsewhere."""
    monkeypatch.setattr("reference_impl.metrics.time", itertools.count().__next__)
    metrics = Metrics(sample_rate=1.0)
    for n in range(6):
        metrics.record(f"job-{n}", 0.001, error=KeyError if n % 2 else None, critical=n == 4)
    assert [detail.name for detail in metrics.details()] == [f"job-{n}" for n in range(6)]


def test_an_hour_at_2000_operations_a_second_fits_into_ten_megabytes():
    """Nine operations, a tenth in detail: what is kept does not grow with the time."""
    tracemalloc.start()
    try:
        metrics = Metrics(sample_rate=1.0)  # as many details as in an hour at a tenth, and more
        for n in range(100_000):
            error = KeyError if n % 5 == 0 else None
            metrics.record(f"operation.{n % 9}", 0.001 + n * 1e-8, {"endpoint": f"/{n % 5}"}, error=error)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size < 10 * 1024 * 1024


def test_an_id_in_a_tag_does_not_eat_the_memory():
    """What comes too late goes to one series of the same name, which says so by its tags."""
    metrics = Metrics(most_series=10)
    for n in range(100):
        metrics.record("job", 0.001, {"user": str(n)})
        metrics.count("seen", tags={"user": str(n)})
        metrics.gauge("level", n, {"user": str(n)})
    assert len(list(metrics)) == 11
    late = metrics.series("job", {"user": "99"})
    assert (late.name, late.tags, late.count) == ("job", OVERFLOW_TAGS, 90)
    assert metrics.counters["seen", OVERFLOW_TAGS] == 90
    assert len(metrics.gauges) == 11


def test_an_id_in_a_name_does_not_eat_the_memory_either():
    """After as many names again, one series takes the rest."""
    metrics = Metrics(most_series=10)
    for n in range(100):
        metrics.record(f"job-{n}", 0.001)
        metrics.count(f"seen-{n}")
        metrics.gauge(f"level-{n}", n)
    assert len(list(metrics)) == len(metrics.counters) == len(metrics.gauges) == 21
    assert metrics.series("job-15").tags == OVERFLOW_TAGS
    assert metrics.series(OVERFLOW).count == 80
    assert metrics.counters[OVERFLOW, ()] == 80


def test_what_overflowed_is_counted():
    """Every operation, also of a series that somebody holds on to."""
    metrics = Metrics(most_series=2)
    assert metrics.overflowed == 0
    for n in range(5):
        metrics.record("job", 0.001, {"user": str(n)})
        metrics.count("seen", 7, {"user": str(n)})
    metrics.series("job", {"user": "5"}).add(0.001)
    assert metrics.overflowed == 3 + 3 + 1


def test_the_order_of_tags_means_nothing(metrics):
    """Two spellings are one series."""
    one = metrics.series("job", {"a": "1", "b": "2"})
    assert metrics.series("job", {"b": "2", "a": "1"}) is one


def test_a_counter_never_falls(metrics):
    """Or rates would be wrong; and what is no number would make it one for ever."""
    metrics.count("seen")
    metrics.count("seen", 2)
    for by in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="seen cannot fall"):
            metrics.count("seen", by)
    assert metrics.counters["seen", ()] == 3


@pytest.mark.parametrize("seconds", [-1.0, -math.inf, math.nan, math.inf])
def test_what_is_no_duration_is_refused(metrics, seconds):
    """Named by its operation, and before anything is counted."""
    with pytest.raises(ValueError, match="job took"):
        metrics.record("job", seconds)
    assert list(metrics) == []


def test_a_clock_that_stands_still_is_no_fault(metrics, monkeypatch):
    """Some tick so seldom that nothing passes between two looks."""
    monkeypatch.setattr("reference_impl.metrics.perf_counter", lambda: 1.0)
    with metrics.timed_operation("job"):
        pass
    metrics.record("job", 0.0)
    assert (metrics.series("job").count, metrics.series("job").sum_s) == (2, 0.0)


WAYS = {
    "record": lambda metrics, name, tags: metrics.record(name, 0.1, tags),
    "timed_operation": lambda metrics, name, tags: metrics.timed_operation(name, tags),
    "count": lambda metrics, name, tags: metrics.count(name, tags=tags),
    "gauge": lambda metrics, name, tags: metrics.gauge(name, 1.0, tags),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("name", "tags", "what"),
    [
        ("job", {"user": 7}, r"the tag 'user' of 'job' is 7.*\{'user': '7'\}"),
        ("job", {"user": None}, r"the tag 'user' of 'job' is None"),
        ("job", {"user": ["a"]}, r"the tag 'user' of 'job' is \['a'\]"),
        ("job", {"a": "1", "user": b"x"}, r"the tag 'user' of 'job' is b'x'"),
        ("job", {7: "a"}, r"7 cannot name a tag of 'job'"),
        ("job", {7: "a", "user": "b"}, r"7 cannot name a tag of 'job'"),
        ("job", [("user", "a")], r"the tags of 'job' are \[\('user', 'a'\)\]"),
        (7, None, r"the name of what is measured is 7"),
        (["a"], {"user": "a"}, r"the name of what is measured is \['a'\]"),
    ],
)
def test_what_is_no_text_is_refused_at_once(metrics, way, name, tags, what):
    """Where it was written, and not in a scrape an hour later."""
    with pytest.raises(TypeError, match=what):
        way(metrics, name, tags)
    assert (list(metrics), metrics.counters, metrics.gauges) == ([], {}, {})


def test_a_gauge_is_a_number(metrics):
    """Said where it is noted, and not in a scrape an hour later."""
    with pytest.raises(TypeError, match="the gauge level is a number, not 'high'"):
        metrics.gauge("level", "high")
    assert metrics.gauges == {}


def test_a_rate_is_a_share():
    """Ten percent is 0.1."""
    with pytest.raises(ValueError, match="a share from 0 to 1, not 10"):
        Metrics(sample_rate=10)


def test_two_backends_share_nothing(metrics):
    """Each has measurements of its own."""
    metrics.record("job", 0.001)
    assert list(Metrics()) == []


@pytest.fixture
def hasty():
    """Threads that are changed as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*works):
    """Each in a thread of its own."""
    failures = []

    def run(work):
        try:
            work()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_whatever_is_read_is_a_copy(hasty):
    """While another thread goes on measuring."""
    metrics, ended = Metrics(sample_rate=1.0, most_series=10_000), threading.Event()

    def write():
        for n in range(3000):
            metrics.count(f"seen-{n}")
            metrics.gauge(f"level-{n}", n)
            metrics.record("job", 0.001, error=KeyError if n % 2 else None)
        ended.set()

    def read():
        while not ended.is_set():
            for table in (metrics.counters, metrics.gauges):
                assert all(value >= 0 for value in table.values())
            assert all(detail.name == "job" for detail in metrics.details())

    at_once(write, read)


def test_threads_that_meet_at_a_new_series_get_the_same_one(hasty):
    """Or what one of them counts would be lost."""
    metrics = Metrics(sample_rate=0.0)

    def work():
        for n in range(500):
            metrics.record(f"job-{n}", 0.001)
            metrics.count(f"seen-{n}")

    at_once(work, work, work)
    assert {series.count for series in metrics} == {3}
    assert set(metrics.counters.values()) == {3}


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="exact only under the GIL")
def test_counts_of_several_threads_are_exact_under_the_gil(hasty):
    """The documentation says so."""
    metrics = Metrics(sample_rate=0.0, most_series=2)
    for name in ("job", "gone"):
        metrics.record(name, 0.0)
        metrics.count(name, 0)

    def work():
        for _ in range(10_000):
            metrics.record("job", 0.5, error=KeyError)
            metrics.record("gone", 0.5, error=asyncio.CancelledError)
            metrics.count("job")
            metrics.count("late")

    at_once(work, work, work)
    job, gone = metrics.series("job"), metrics.series("gone")
    assert (job.count, job.errors, job.sum_s) == (30_001, 30_000, 15_000.0)
    assert (gone.count, gone.cancelled) == (30_001, 30_000)
    assert (metrics.counters["job", ()], metrics.counters["late", OVERFLOW_TAGS]) == (30_000, 30_000)
    assert metrics.overflowed == 30_000


def test_what_was_not_drawn_is_noted_if_it_failed_or_took_too_long():
    """It is told and kept, and not counted among the durations."""
    metrics, told = Metrics(sample_rate=0.0), []
    metrics.watch(lambda series: (0.01, lambda series, seconds: told.append((series.name, seconds))))
    metrics.notice("job", 0.001)
    metrics.notice("job", 0.5)
    metrics.notice("job", 0.002, error=KeyError)
    metrics.notice("job", 0.002, error=asyncio.CancelledError)
    series = metrics.series("job")
    assert (series.count, series.errors, series.cancelled, told) == (0, 1, 1, [("job", 0.5)])
    assert [(detail.seconds, detail.error) for detail in metrics.details()] == [(0.5, ""), (0.002, "KeyError")]
