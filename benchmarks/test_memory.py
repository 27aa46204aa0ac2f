"""What requests of the reference backend hold, each figure beside its aim: `pytest benchmarks/test_memory.py`."""

import asyncio
import gc
import tracemalloc
from itertools import count, cycle

import pytest

from pytest_isolation.growing import Growing
from pytest_isolation.phases.rounds import RoundPlan
from pytest_isolation.verdicts import Held, MemoryBudget
from reference_impl import ReferenceBackend
from reference_impl.context import RequestContext
from reference_impl.settings import Settings

USERS = 100


async def started():
    """A backend whose ring of details is as full after 3,000 requests as others are after 30,000."""
    backend = ReferenceBackend(Settings(sample_rate=1.0))
    await backend.start()
    return backend


async def serve(backend, user_id, session=True):
    """One request of a user who listens: an agent, an event, a session."""
    async with backend.connect(user_id) as inbox, backend.request(user_id) as request:
        await request.agent("chat")
        if session:
            async with request.session() as opened:
                await opened.ping()
        await request.emit("agent_thinking", {"about": user_id})
        await inbox.receive()


def test_bytes_of_an_open_context(benchmark, figure):
    """Who makes a request; and the whole scope of one."""

    def held(make):
        kept = [None] * 1000
        make(0)
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(len(kept)):
                kept[number] = make(number)
            return tracemalloc.get_traced_memory()[0] / len(kept)
        finally:
            tracemalloc.stop()

    names = [f"user-{number}" for number in range(1000)]
    figure("bytes of a context", held(lambda number: RequestContext(names[number])), "B", most=600)
    benchmark.pedantic(lambda: RequestContext("user-1"), rounds=1)


def test_growth(benchmark, figure):
    """Kilobytes per 1000 requests, once caches and rings are full, and the process beside it."""

    async def measure():
        backend = await started()
        users, has_session = cycle([f"user-{number}" for number in range(USERS)]), cycle([True, *[False] * 9])
        try:
            for _ in range(5000):
                await serve(backend, next(users), session=False)
            # What is held goes up and down by 13 KB every 2,000 requests, which are a round therefore.
            growing = Growing(MemoryBudget(growth_bytes=10 * 1024), RoundPlan(seconds=120.0, runs=2000, warm_up=1))
            await growing.play_async(lambda: serve(backend, next(users), next(has_session)))
        finally:
            await backend.aclose()
        [verdict] = growing.verdicts()
        return verdict

    verdict = asyncio.run(measure())
    assert verdict.what is Held.GROWTH
    details = f"{verdict.outcome}; {verdict.runs:,} requests; process {verdict.resident_bytes / 1024:.3g} KB"
    figure("kilobytes per 1000 requests", verdict.value_bytes / 1024, "KB", most=10, details=details)
    benchmark.pedantic(lambda: None, rounds=1)


def test_peak_at_100_users(benchmark, figure):
    """Megabytes while a hundred requests are open at once, with agent, answer, inbox."""

    async def crowd(backend):
        all_open, arrived = asyncio.Event(), count(1)

        async def one(user_id):
            async with backend.connect(user_id), backend.request(user_id) as request:
                agent = await request.agent("chat")
                assert user_id in await agent.run(f"this is {user_id}")
                if next(arrived) == USERS:
                    all_open.set()
                await all_open.wait()

        await asyncio.gather(*[one(f"user-{number}") for number in range(USERS)])

    async def measure():
        backend = await started()
        try:
            growing = Growing(MemoryBudget(peak_bytes=65 * 1024**2), RoundPlan(seconds=60.0))
            await growing.play_async(lambda: crowd(backend))
        finally:
            await backend.aclose()
        [verdict] = growing.verdicts()
        return verdict

    verdict = asyncio.run(measure())
    figure("megabytes at 100 users at once", verdict.value_bytes / 1024**2, "MB", most=65)
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.parametrize("end", ["well", "cancelled"])
def test_what_is_left(benchmark, figure, end):
    """Sessions and emitters that are still lent after 1,000 requests, and names of users who no longer listen."""

    async def measure():
        backend = await started()
        try:
            for turn in range(10):
                tasks = [asyncio.create_task(serve(backend, f"user-{turn}-{number}")) for number in range(USERS)]
                if end == "cancelled":
                    for number, task in enumerate(tasks):
                        asyncio.get_running_loop().call_later(number / 5000, task.cancel)
                await asyncio.gather(*tasks, return_exceptions=end == "cancelled")
            gc.collect()
            await asyncio.sleep(0.1)
            sessions = max(len(backend.database.open_sessions()), backend.database.figures.active)
            return sessions, backend.pool.figures.in_use, len(backend.connections)
        finally:
            await backend.aclose()

    sessions, emitters, listeners = asyncio.run(measure())
    figure(f"sessions left after 1,000 requests that ended {end}", sessions, "", most=0)
    figure(f"emitters left after 1,000 requests that ended {end}", emitters, "", most=0)
    figure(f"listeners left after 1,000 requests that ended {end}", listeners, "", most=0)
    benchmark.pedantic(lambda: None, rounds=1)
