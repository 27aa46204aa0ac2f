"""What measuring costs, beside prometheus-client, and how true it is."""

import math
import random
import tracemalloc
from time import perf_counter

from prometheus_client import CollectorRegistry, Histogram
from side_by_side import interleaved

from reference_impl.metrics import Metrics
from reference_impl.series import Series

ROUNDS, COUNT = 15, 20_000
RNG = random.Random(7)
DURATIONS = [RNG.lognormvariate(math.log(0.001), 0.5) for _ in range(COUNT)]


def per_call(work):
    def run() -> float:
        begun = perf_counter()
        for seconds in DURATIONS:
            work(seconds)
        return (perf_counter() - begun) / COUNT

    return run


def test_recording(benchmark, figure):
    """One duration, into a series that is at hand."""
    ours = Series("x").add
    theirs = Histogram("x", "x", registry=CollectorRegistry()).observe
    mine, peer, ratio = interleaved(per_call(ours), per_call(theirs), ROUNDS)
    figure(
        "recording a duration / prometheus_client, both pre-bound",
        ratio,
        "×",
        most=0.4,
        details=f"{mine * 1e9:.0f} / {peer * 1e9:.0f} ns",
    )
    recorded = Metrics(sample_rate=0.1)
    mine, peer, ratio = interleaved(per_call(lambda seconds: recorded.record("x", seconds)), per_call(theirs), ROUNDS)
    details = f"{mine * 1e9:.0f} / {peer * 1e9:.0f} ns"
    figure("the same by name, checked, with the sampled detail", ratio, "×", details=details)
    benchmark(ours, 0.001)


def test_p95_is_true(benchmark, figure):
    """Beside the exact one."""
    for sigma in (0.5, 1.0):
        durations = [RNG.lognormvariate(math.log(0.01), sigma) for _ in range(100_000)]
        series = Series("x")
        for seconds in durations:
            series.add(seconds)
        exact = sorted(durations)[math.ceil(0.95 * len(durations)) - 1]
        figure(f"error of p95, lognormal sigma {sigma}", abs(series.quantile(0.95) / exact - 1) * 100, "%", most=1)
    benchmark(series.quantile, 0.95)


def test_memory(benchmark, figure):
    """A series, and everything after an hour at 2,000 operations a second."""
    tracemalloc.start()
    series = Series("x")
    for seconds in DURATIONS:
        series.add(seconds)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    figure("kilobytes of a series, an hour or a year", size / 1024, "KB", most=64)
    tracemalloc.start()
    metrics = Metrics(sample_rate=1.0)  # every ring is full after 10,000; an hour at a tenth would bring 720,000
    for n in range(50_000):
        metrics.record(f"operation.{n % 9}", DURATIONS[n % COUNT], {"endpoint": f"/{n % 10}"})
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    figure("megabytes of 90 series, every ring full: an hour at 2,000/s or a year", size / 1024**2, "MB", most=10)
    benchmark(lambda: metrics.series("operation.1"))


def test_timed_operation(benchmark, figure):
    """A block with everything around it, beside two bare looks at the clock."""
    metrics = Metrics(sample_rate=0.1)

    def ours() -> float:
        begun = perf_counter()
        for _ in range(COUNT):
            with metrics.timed_operation("job"):
                pass
        return (perf_counter() - begun) / COUNT

    def bare() -> float:
        begun = perf_counter()
        for _ in range(COUNT):
            perf_counter()
            perf_counter()
        return (perf_counter() - begun) / COUNT

    mine, peer, _ = interleaved(ours, bare, ROUNDS)
    figure(
        "a timed operation, over two looks at the clock",
        (mine - peer) * 1e9,
        "ns",
        most=1000,
        details=f"{mine * 1e9:.0f} / {peer * 1e9:.0f} ns",
    )
    benchmark(ours)
