"""What the sampler adds to what it measures."""

import asyncio
import statistics
import time
from dataclasses import replace

from side_by_side import interleaved

from pytest_isolation.latency.noise import MachineClock
from pytest_isolation.latency.sampler import Limits, sample_async, sample_sync
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.verdicts import Budget

# A budget so far out that no number of samples decides it, so that every one of them is taken.
UNDECIDABLE = Limits(seconds=60, samples=4000, warm_up=5)


CLOCK = MachineClock()


def ledger():
    """With the machine's clock, as in a session."""
    return Ledger([Budget(0.999999, 60.0)], clock=CLOCK)


async def trivial():
    await asyncio.sleep(0)


async def hundred_microseconds():
    end = time.perf_counter() + 1e-4
    while time.perf_counter() < end:
        pass


async def bare(body, n):
    samples = []
    for _ in range(n):
        start = time.perf_counter()
        await body()
        samples.append(time.perf_counter() - start)
    return samples


async def ours(body, n):
    """As many runs, the first of which warm up."""
    taken, limits = ledger(), Limits(seconds=60)
    await sample_async(body, taken, replace(limits, samples=n - limits.warm_up))
    return taken.samples[None]


def async_sample(how, body, n):
    return lambda: statistics.median(asyncio.run(how(body, n)))


def async_wall(how, body, n):
    def run():
        start = time.perf_counter()
        asyncio.run(how(body, n))
        return (time.perf_counter() - start) / n

    return run


def test_async_sample_against_a_bare_awaited_loop(benchmark, figure):
    """The sample that the verdict sees, own task and fresh Context included."""
    mine, theirs, ratio = interleaved(async_sample(ours, trivial, 4000), async_sample(bare, trivial, 4000), 21)
    figure(
        "async sample / bare awaited loop, await sleep(0)",
        ratio,
        "×",
        most=1.1,
        details=f"{mine * 1e6:.2f} / {theirs * 1e6:.2f} µs",
    )
    benchmark.pedantic(lambda: asyncio.run(ours(trivial, 1000)), rounds=5)


def test_async_wall_against_a_bare_awaited_loop(benchmark, figure):
    """The time that a test takes, for a body of a hundred microseconds."""
    mine, theirs, ratio = interleaved(
        async_wall(ours, hundred_microseconds, 2000), async_wall(bare, hundred_microseconds, 2000), 11
    )
    figure(
        "async wall per sample / bare awaited loop, 100 µs body",
        ratio,
        "×",
        most=1.1,
        details=f"{mine * 1e6:.1f} / {theirs * 1e6:.1f} µs",
    )
    benchmark.pedantic(lambda: asyncio.run(ours(hundred_microseconds, 200)), rounds=5)


def test_async_wall_of_a_trivial_body(benchmark, figure):
    """What a sample costs beside itself: a task, a Context, two looks at the clock, the gates."""
    mine, theirs, ratio = interleaved(async_wall(ours, trivial, 4000), async_wall(bare, trivial, 4000), 11)
    figure(
        "async wall per sample / bare awaited loop, await sleep(0)",
        ratio,
        "×",
        most=6,
        details=f"{mine * 1e6:.1f} / {theirs * 1e6:.1f} µs",
    )
    benchmark.pedantic(lambda: asyncio.run(ours(trivial, 1000)), rounds=3)


def test_sync_sample_against_pytest_benchmark(benchmark, figure):
    """What is in the sample of an empty function, which should be nothing."""

    def empty():
        pass

    def mine():
        taken = ledger()
        sample_sync(empty, taken, UNDECIDABLE)
        return statistics.median(taken.samples[None])

    benchmark.pedantic(empty, rounds=20_000, iterations=1)
    theirs = benchmark.stats.stats.median
    ours_s = statistics.median(mine() for _ in range(11))
    figure(
        "sync sample / pytest-benchmark's (pedantic), empty function",
        ours_s / theirs,
        "×",
        most=1.0,
        details=f"{ours_s * 1e9:.0f} / {theirs * 1e9:.0f} ns",
    )
