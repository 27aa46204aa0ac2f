"""What keeping requests apart costs: the scope, the pool, the class cache, beside what others use for them."""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import threading
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import lru_cache
from time import perf_counter

import pytest
from dishka import Provider, Scope, make_async_container
from side_by_side import interleaved
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from reference_impl.agents import Agent, AgentRegistry, Recipe
from reference_impl.backend import ReferenceBackend
from reference_impl.connections import Connections
from reference_impl.context import RequestContext
from reference_impl.database import Database
from reference_impl.emitters import Emitter, EmitterPool
from reference_impl.factory import RequestFactory, RequestScope
from reference_impl.metrics import Metrics
from reference_impl.settings import BALANCED, Settings

ROUNDS = 15


class Channel:
    """A dependency that is closed with its request."""

    __slots__ = ("context", "open")

    def __init__(self, context: object) -> None:
        self.context, self.open = context, True

    def close(self) -> None:
        self.open, self.context = False, None


class Sessions:
    __slots__ = ("context",)

    def __init__(self, context: object) -> None:
        self.context = context


class Worker(Agent):
    """An agent with the same four things as everybody's here: tools, context, channel, sessions."""

    __slots__ = ("channel", "context", "sessions")

    def __init__(self, tools, context, channel, sessions):
        super().__init__(tools)
        self.context, self.channel, self.sessions = context, channel, sessions


def our_factory() -> RequestFactory:
    registry = AgentRegistry()
    registry.provide("context", lambda tools: tools.context)
    registry.provide("channel", lambda tools: Channel(tools.context))
    registry.provide("sessions", lambda tools: Sessions(tools.context))
    registry.register("worker", Worker)
    return RequestFactory(BALANCED, registry, EmitterPool(Connections().dispatch), Database(), Metrics())


async def ours(factory: RequestFactory, count: int) -> None:
    for _ in range(count):
        async with factory.request(RequestContext("alice")) as request:
            await request.agent("worker")


class Plain:
    """The same by hand, class-based, with nothing checked, limited or measured."""

    __slots__ = ("agent", "channel", "context")

    async def __aenter__(self):
        context = self.context = RequestContext("alice")
        channel = self.channel = Channel(context)
        self.agent = Worker(self, context, channel, Sessions(context))
        return self

    async def __aexit__(self, *_):
        self.channel.close()
        self.context = self.channel = self.agent = None


async def by_hand(count: int) -> None:
    for _ in range(count):
        async with Plain() as scope:
            scope.agent  # noqa: B018


async def open_channel(context: RequestContext) -> AsyncIterator[Channel]:
    channel = Channel(context)
    try:
        yield channel
    finally:
        channel.close()


class DishkaWorker:
    __slots__ = ("channel", "context", "sessions", "tools")

    def __init__(self, tools: Emitter, context: RequestContext, channel: Channel, sessions: Sessions) -> None:
        self.tools, self.context, self.channel, self.sessions = tools, context, channel, sessions


def make_context() -> RequestContext:
    return RequestContext("alice")


def make_sessions(context: RequestContext) -> Sessions:
    return Sessions(context)


def dishka_container():
    provider = Provider(scope=Scope.REQUEST)
    for source in (make_context, open_channel, make_sessions, Emitter, DishkaWorker):
        provider.provide(source)
    return make_async_container(provider)


async def dishka(container, count: int) -> None:
    for _ in range(count):
        async with container() as scope:
            await scope.get(DishkaWorker)


def per_call(work, *args, count: int = 5000):
    def run() -> float:
        gc.collect()
        begun = perf_counter()
        asyncio.run(work(*args, count))
        return (perf_counter() - begun) / count

    return run


def test_request_scope(benchmark, figure):
    """Open, make an agent with four dependencies, close."""
    factory, container = our_factory(), dishka_container()
    mine, theirs, ratio = interleaved(per_call(ours, factory), per_call(dishka, container), ROUNDS)
    details = f"{mine * 1e6:.2f} / {theirs * 1e6:.2f} µs"
    figure("request scope, open + agent + close / dishka", ratio, "×", most=0.5, details=details)
    mine, theirs, ratio = interleaved(per_call(ours, factory), per_call(by_hand), ROUNDS)
    details = f"{mine * 1e6:.2f} / {theirs * 1e6:.2f} µs"
    figure("request scope, open + agent + close / by hand", ratio, "×", most=2, details=details)
    asyncio.run(ours(factory, 100))
    gc.collect()
    gc.disable()
    asyncio.run(_left(factory, figure))
    gc.enable()
    benchmark.pedantic(lambda: asyncio.run(ours(factory, 1000)), rounds=3)


async def _left(factory, figure):
    gc.collect()
    await ours(factory, 1000)
    figure("objects left for the cycle collector by 1,000 requests", gc.collect(), "", most=0)


def test_bytes_of_an_open_request(benchmark, figure):
    """The scope alone; and with an agent, a listener and an event in its queue."""
    factory, connections = our_factory(), Connections()

    async def held(full: bool) -> float:
        factory.pool._dispatch = connections.dispatch
        warm = [await factory.request(RequestContext(f"warm-{n}")).__aenter__() for n in range(200)]
        for scope in warm:
            await scope.__aexit__(None, None, None)
        kept: list[object] = [None] * 400
        users = [f"user-{n}" for n in range(100)]
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for n, user in enumerate(users):
            if full:
                listener = connections.connect(user)
                kept[n + 100] = (listener, await listener.__aenter__())
            scope = kept[n] = await factory.request(RequestContext(user)).__aenter__()
            if full:
                kept[n + 200] = await scope.agent("worker")
                await scope.emit("agent_thinking", {"about": user})
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for scope in kept[:100]:
            assert isinstance(scope, RequestScope)
            await scope.__aexit__(None, None, None)
        return (after - before) / 100

    figure("bytes of an open request scope", asyncio.run(held(False)), "B", most=600)
    figure("bytes of an open request with agent, listener, event", asyncio.run(held(True)), "B", most=2000)
    benchmark.pedantic(lambda: RequestContext("alice"), rounds=1000)


def test_emitter_pool(benchmark, figure):
    """Acquire and release beside asyncio.Queue's get and put, and beside making a new one."""
    pool, queue = EmitterPool(lambda user, event: 1), None

    async def lend(count):
        for _ in range(count):
            pool.release(await pool.acquire("alice"))

    async def queued(count):
        queue = asyncio.Queue()
        for _ in range(20):
            queue.put_nowait(Emitter())
        for _ in range(count):
            await queue.put(await queue.get())

    async def made(count):
        for _ in range(count):
            Emitter()

    del queue
    mine, theirs, ratio = interleaved(per_call(lend, count=20_000), per_call(queued, count=20_000), ROUNDS)
    details = f"{mine * 1e9:.0f} / {theirs * 1e9:.0f} ns"
    figure("emitter acquire + release / asyncio.Queue get + put", ratio, "×", most=0.8, details=details)
    new, _, _ = interleaved(per_call(made, count=20_000), per_call(made, count=20_000), 5)
    figure(
        "a constructor must cost this much more before the pool pays",
        (mine - new) * 1e9,
        "ns",
        most=1000,
        details=f"a new emitter: {new * 1e9:.0f} ns",
    )
    benchmark.pedantic(lambda: asyncio.run(lend(1000)), rounds=3)


def test_waiting_for_an_emitter(benchmark, figure):
    """200 tasks on 20 emitters: how long the unluckiest hundredth waits."""

    async def waits(acquire, release) -> float:
        waited: list[float] = []

        async def task():
            for _ in range(50):
                begun = perf_counter()
                lease = await acquire()
                waited.append(perf_counter() - begun)
                await asyncio.sleep(0)
                await release(lease)

        await asyncio.gather(*(task() for _ in range(200)))
        return sorted(waited)[int(len(waited) * 0.99)]

    def ours_p99() -> float:
        async def main():
            pool = EmitterPool(lambda user, event: 1, ready=20, limit=20)

            async def release(lease):
                pool.release(lease)

            return await waits(lambda: pool.acquire("alice"), release)

        return asyncio.run(main())

    def queue_p99() -> float:
        async def main():
            queue = asyncio.Queue()
            for _ in range(20):
                queue.put_nowait(Emitter())
            return await waits(queue.get, queue.put)

        return asyncio.run(main())

    mine, theirs, ratio = interleaved(ours_p99, queue_p99, ROUNDS)
    details = f"{mine * 1e3:.2f} / {theirs * 1e3:.2f} ms"
    figure("p99 wait of 200 tasks on 20 emitters / asyncio.Queue", ratio, "×", most=0.2, details=details)
    figure("of them, waiters who were overtaken", asyncio.run(_overtaken()), "", most=0)
    benchmark.pedantic(ours_p99, rounds=1)


async def _overtaken() -> int:
    """How many of 10,000 requests for an emitter were served after one that came later."""
    pool = EmitterPool(lambda user, event: 1, ready=20, limit=20)
    served: list[int] = []
    came = itertools.count()

    async def task():
        for _ in range(50):
            number = next(came)  # nothing waits between this and the acquisition
            lease = await pool.acquire("alice")
            served.append(number)
            await asyncio.sleep(0)
            pool.release(lease)

    await asyncio.gather(*(task() for _ in range(200)))
    latest = itertools.accumulate(served, max)
    return sum(number < most for number, most in zip(served, latest, strict=True))


def test_class_cache(benchmark, figure):
    """A hit beside functools.lru_cache itself; a cold stampede of eight threads."""
    registry = AgentRegistry()
    registry.register("worker", Agent)

    @lru_cache(128)
    def plain(name):
        return Recipe(Agent)

    def hits(find):
        def run() -> float:
            names = ["worker"] * 20_000
            begun = perf_counter()
            for name in names:
                find(name)
            return (perf_counter() - begun) / 20_000

        return run

    def through_the_registry() -> float:
        names = ["worker"] * 20_000
        begun = perf_counter()
        for name in names:
            registry.recipe(name)
        return (perf_counter() - begun) / 20_000

    mine, theirs, ratio = interleaved(through_the_registry, hits(plain), ROUNDS)
    details = f"{mine * 1e9:.0f} / {theirs * 1e9:.0f} ns"
    figure("class cache hit / functools.lru_cache", ratio, "×", most=1.2, details=details)
    loads = max(_stampede() for _ in range(50))
    figure("most loads in 50 cold stampedes of 8 threads", loads, "", most=1)
    benchmark(lambda: registry.recipe("worker"))


def _stampede() -> int:
    registry = AgentRegistry()
    registry.register("worker", Agent)
    barrier = threading.Barrier(8)

    def ask():
        barrier.wait()
        registry.recipe("worker")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return registry.figures.loads


class BareRequest:
    """The least that does the same work: a context, an agent, two events into the user's own queue."""

    __slots__ = ("agent", "context", "events")

    def __init__(self, events, user) -> None:
        self.events, self.context = events, RequestContext(user)

    async def __aenter__(self):
        self.agent = Agent(self)
        return self

    async def emit(self, kind, data):
        self.events.append({"kind": kind, **data})

    async def __aexit__(self, *_):
        self.context = self.agent = None


USERS, COUNT = [f"user-{n}" for n in range(100)], 500
# A database that is saturated would be all that is measured.
RATES = {False: 1000, True: 200}


async def paced(serve, rate: int) -> float:
    """The median seconds of a request of 100 users, so many requests a second, at moments fixed beforehand."""
    taken: list[float] = []

    async def one(user, due) -> None:
        await asyncio.sleep(max(0.0, due - perf_counter()))
        begun = perf_counter()
        await serve(user)
        taken.append(perf_counter() - begun)

    for user in USERS:  # pools and caches fill
        await serve(user)
    start = perf_counter() + 0.05
    arrivals = (one(USERS[n % len(USERS)], start + n / rate) for n in range(COUNT))
    await asyncio.gather(*arrivals)
    return statistics.median(taken)


async def ours_paced(with_session: bool) -> float:
    backend = ReferenceBackend(Settings())
    await backend.start()
    try:
        async with AsyncExitStack() as stack:
            inboxes = {user: await stack.enter_async_context(backend.connect(user)) for user in USERS}

            async def serve(user):
                async with backend.request(user) as request:
                    await request.emit("agent_started", {"user": user})
                    await request.agent("chat")
                    if with_session:
                        async with request.session() as session:
                            await session.ping()
                    await request.emit("agent_completed", {"answer": user})
                while inboxes[user].pending():
                    await inboxes[user].receive()

            return await paced(serve, RATES[with_session])
    finally:
        await backend.aclose()


async def bare_paced(with_session: bool) -> float:
    database, queues = Database(), {user: deque(maxlen=1000) for user in USERS}
    await database.start()
    engine = await database._make()

    async def serve(user):
        events = queues[user]
        async with BareRequest(events, user) as scope:
            await scope.emit("agent_started", {"user": user})
            if with_session:
                async with AsyncSession(engine) as session:
                    await session.execute(text("select 1"))
            await scope.emit("agent_completed", {"answer": user})
        while events:
            events.popleft()

    try:
        return await paced(serve, RATES[with_session])
    finally:
        await database.aclose()


@pytest.mark.parametrize(("with_session", "aim"), [(False, 3), (True, 1.25)], ids=["without", "with"])
def test_whole_request(benchmark, figure, with_session, aim):
    """With everything checked and measured, beside the least that does the same; 100 paced users."""
    mine, theirs, ratio = interleaved(
        lambda: asyncio.run(ours_paced(with_session)), lambda: asyncio.run(bare_paced(with_session)), 7
    )
    what = "with the same session" if with_session else "without database"
    details = f"{mine * 1e6:.1f} / {theirs * 1e6:.1f} µs"
    figure(f"whole request of 100 paced users, {what} / bare minimum", ratio, "×", most=aim, details=details)
    benchmark.pedantic(lambda: None, rounds=1)
