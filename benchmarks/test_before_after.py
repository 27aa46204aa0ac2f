"""What each optimisation gains: the naive backend beside the balanced one, in one run."""

from __future__ import annotations

import asyncio
import gc
import statistics
import tracemalloc
from contextlib import AsyncExitStack
from time import perf_counter

import pytest
from side_by_side import interleaved

from reference_impl.backend import ReferenceBackend
from reference_impl.context import RequestContext
from reference_impl.emitters import EmitterPool
from reference_impl.naive import NaiveBackend, NaiveContext, NaiveEmitter
from reference_impl.settings import Settings

ROUNDS, COUNT = 9, 300


def serving(make, work, count=COUNT):
    """Seconds of one call of an async work on a running backend."""

    async def main() -> float:
        backend = make()
        await backend.start()
        try:
            await work(backend, 20)
            begun = perf_counter()
            await work(backend, count)
            return (perf_counter() - begun) / count
        finally:
            await backend.aclose()

    return lambda: asyncio.run(main())


def naive():
    return NaiveBackend(Settings())


def balanced():
    return ReferenceBackend(Settings())


async def whole(backend, count):
    """A request that keeps a message and answers with all of them."""
    for n in range(count):
        async with backend.request(f"user-{n}") as request:
            await (await request.agent("chat")).run("hi")


async def without_database(backend, count):
    """A request that makes an agent and sends three events."""
    for n in range(count):
        async with backend.request(f"user-{n % 50}") as request:
            await request.agent("chat")
            for kind in ("agent_started", "agent_thinking", "agent_completed"):
                await request.emit(kind, {"about": "x"})


async def crowded(backend, count):
    """A hundred users at once."""

    async def one(n):
        async with backend.request(f"user-{n}") as request:
            await request.emit("agent_thinking", {"about": "x"})
            await asyncio.sleep(0)

    for _ in range(count // 100):
        await asyncio.gather(*map(one, range(100)))


async def lookups(backend, count):
    for _ in range(count):
        backend.registry.recipe("chat")


async def listening(backend, count):
    async with backend.connect("alice") as inbox, backend.request("alice") as request:
        for _ in range(count):
            await request.emit("agent_thinking", {"about": "x"})
            await inbox.receive()


async def measuring(backend, count):
    for _ in range(count):
        if isinstance(backend, NaiveBackend):
            async with backend.measured("api.request"):
                pass
        else:
            async with backend.metrics.timed_operation("api.request"):
                pass


@pytest.mark.parametrize(
    ("system", "work", "count"),
    [
        ("a whole request, with the database", whole, COUNT),
        ("a request that never asks the database", without_database, COUNT),
        ("a hundred requests at once, each", crowded, COUNT),
        ("agent class by name", lookups, 10_000),
        ("an event to one listener", listening, 3000),
        ("an operation that is measured", measuring, 3000),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_system(benchmark, figure, system, work, count):
    """After and before."""
    after, before, ratio = interleaved(serving(balanced, work, count), serving(naive, work, count), ROUNDS)
    details = f"{after * 1e6:.2f} / {before * 1e6:.2f} µs"
    figure(f"balanced / naive: {system}", ratio, "×", most=1, details=details)
    benchmark.pedantic(serving(balanced, work, count), rounds=1)


def test_contexts_and_emitters(benchmark, figure):
    """Made by themselves, without a backend."""
    pool, context, number = EmitterPool(lambda user, event: 1), NaiveContext("alice"), 3000

    async def lend():
        for _ in range(number):
            pool.release(await pool.acquire("alice"))

    def per_call(work):
        def run():
            begun = perf_counter()
            work()
            return (perf_counter() - begun) / number

        return run

    pairs = {
        "a request context": (
            lambda: [RequestContext("alice") for _ in range(number)],
            lambda: [NaiveContext("alice") for _ in range(number)],
        ),
        "an emitter for a request": (
            lambda: asyncio.run(lend()),
            lambda: [NaiveEmitter(context, lambda user, event: 1) for _ in range(number)],
        ),
    }
    for system, (after, before) in pairs.items():
        mine, theirs, ratio = interleaved(per_call(after), per_call(before), ROUNDS)
        details = f"{mine * 1e6:.2f} / {theirs * 1e6:.2f} µs"
        figure(f"balanced / naive: {system}", ratio, "×", most=1, details=details)
    benchmark.pedantic(lambda: RequestContext("alice"), rounds=100)


def test_start(benchmark, figure):
    """From nothing to serving; what a lazy start saves here the first user of the database pays."""

    def start(make, first):
        async def main() -> float:
            backend = make()
            begun = perf_counter()
            await backend.start()
            if first:
                begun = perf_counter()
                async with backend.request("alice") as request, request.session() as session:
                    await session.ping()
            taken = perf_counter() - begun
            await backend.aclose()
            return taken

        return lambda: asyncio.run(main())

    for what, first in (("start", False), ("the first request with the database", True)):
        after, before, ratio = interleaved(start(balanced, first), start(naive, first), ROUNDS)
        details = f"{after * 1e3:.2f} / {before * 1e3:.2f} ms"
        most = 1 if not first else 50
        figure(f"balanced / naive: {what}", ratio, "×", most=most, details=details)
    benchmark.pedantic(start(balanced, False), rounds=1)


def test_memory_of_100_open_requests(benchmark, figure):
    """With an agent and a listener each; modules and pools are there before."""

    def held(make):
        async def main() -> float:
            backend = make()
            await backend.start()
            async with AsyncExitStack() as stack:
                for n in range(110):
                    if n == 10:
                        gc.collect()
                        tracemalloc.start()
                        before = tracemalloc.get_traced_memory()[0]
                    await stack.enter_async_context(backend.connect(f"user-{n}"))
                    request = await stack.enter_async_context(backend.request(f"user-{n}"))
                    await request.agent("chat")
                    await request.emit("agent_thinking", {"about": "x"})
                bytes_held = tracemalloc.get_traced_memory()[0] - before
                tracemalloc.stop()
            await backend.aclose()
            return bytes_held

        return asyncio.run(main())

    # The naive backend holds a connection for every request, so that its pool would be empty: fewer for both.
    after = held(lambda: ReferenceBackend(Settings(emitters_ready=200)))
    figure("megabytes of 100 open requests", after / 1024**2, "MB", most=5)
    benchmark.pedantic(lambda: None, rounds=1)


def paced(backend_of, work, users, seconds):
    """p95 of each user's request, one a second, from when it was due."""

    async def main():
        backend = backend_of()
        await backend.start()
        taken = []

        async def one(user, due):
            await asyncio.sleep(max(0.0, due - perf_counter()))
            await work(backend, user)
            taken.append(perf_counter() - due)

        try:
            await asyncio.gather(*(work(backend, f"warm-{n}") for n in range(50)))
            start = perf_counter() + 0.1
            arrivals = [one(f"user-{n % users}", start + n / users) for n in range(users * seconds)]
            await asyncio.gather(*arrivals)
        finally:
            await backend.aclose()
        return statistics.quantiles(taken, n=20)[-1]

    return lambda: asyncio.run(main())


async def with_session(backend, user):
    async with backend.request(user) as request:
        await request.emit("agent_started", {"user": user})
        async with request.session() as session:
            await session.ping()
        await request.emit("agent_completed", {"answer": user})


async def only_events(backend, user):
    async with backend.request(user) as request:
        await request.emit("agent_started", {"user": user})
        await request.agent("chat")
        await request.emit("agent_completed", {"answer": user})


@pytest.mark.parametrize(
    ("users", "work", "what"),
    [(1000, with_session, "with a session each"), (5000, only_events, "without database")],
    ids=["1000", "5000"],
)
def test_many_paced_users(benchmark, figure, users, work, what):
    """One request a second each, all on one loop; the specification allows 20 ms."""
    p95_s = statistics.median(paced(balanced, work, users, 3)() for _ in range(3))
    figure(f"p95 of {users:,} paced users, {what}", p95_s * 1e3, "ms", most=20)
    benchmark.pedantic(lambda: None, rounds=1)


def test_growth(benchmark, figure):
    """Bytes that stay for every thousand requests, once caches and pools are full."""

    async def main() -> float:
        backend = ReferenceBackend(Settings(sample_rate=1.0))  # its ring of details is full after 3,000 requests
        await backend.start()

        async def serve(count) -> int:
            for number in range(count):
                async with backend.request(f"user-{number % 100}") as request:
                    await request.emit("agent_thinking", {"about": "x"})
                    await request.agent("chat")
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await serve(20_000)
            return (await serve(80_000) - before) / 80
        finally:
            tracemalloc.stop()
            await backend.aclose()

    # Counters outgrow the small numbers that Python shares; that ends.
    figure("bytes that stay of 1,000 requests, 20,000 to 100,000", asyncio.run(main()), "B", most=100)
    benchmark.pedantic(lambda: None, rounds=1)
