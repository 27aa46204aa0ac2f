"""What slow calls waited for is read off the chain of awaits, and the causes are added up."""

import asyncio
import gc
import inspect
from asyncio.events import Handle

import anyio
import pytest

from pytest_isolation.latency.attribution import Call, Frame, attribute, frames_behind, waiting_for
from pytest_isolation.latency.noise import NoClock
from pytest_isolation.latency.tracing import Tracer, Unrepeatable, explain_async, explain_sync

HERE = Frame("Store.get", __file__, 12)


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("Lock.acquire", "/lib/python3.11/asyncio/locks.py", "waiting for a lock"),
        ("Queue.get", "/lib/python3.11/asyncio/queues.py", "waiting for a lock"),
        ("Lock.acquire", "/site-packages/anyio/_core/_synchronization.py", "waiting for a lock"),
        ("Semaphore.acquire", "/site-packages/anyio/_backends/_asyncio.py", "waiting for a lock"),
        ("sleep", "/lib/python3.11/asyncio/tasks.py", "waiting for a timer"),
        ("wait_for", "/lib/python3.11/asyncio/tasks.py", "waiting in wait_for"),
        ("Connection.fetch", "/site-packages/asyncpg/connection.py", "waiting for the database"),
        (
            "AsyncSession.execute",
            "C:\\Lib\\site-packages\\sqlalchemy\\ext\\asyncio\\session.py",
            "waiting for the database",
        ),
        ("Redis.execute_command", "/site-packages/redis/asyncio/client.py", "waiting for Redis"),
        ("AsyncClient.get", "/site-packages/httpx/_client.py", "waiting for HTTP"),
        ("StreamReader.read", "/lib/python3.11/asyncio/streams.py", "waiting for I/O"),
        ("to_thread", "/lib/python3.11/asyncio/threads.py", "waiting for a thread"),
    ],
)
def test_the_kind_of_a_wait_is_told_by_the_library_it_is_in(name, file, kind):
    """The outermost one that is known: a database waits on a socket, and it is the database."""
    assert waiting_for([HERE, Frame(name, file, 1)])[0] == kind
    inner = Frame("StreamReader.read", "/lib/python3.11/asyncio/streams.py", 1)
    if not kind.startswith("waiting in"):
        assert waiting_for([HERE, Frame(name, file, 1), inner])[0] == kind


def test_the_place_is_the_innermost_of_the_users_own():
    """Not that of the library it calls, and relative to where the tests were started."""
    outer = Frame("test_it", __file__, 3)
    _, place = waiting_for([outer, HERE, Frame("Lock.acquire", asyncio.locks.__file__, 1)])
    assert place.startswith("Store.get, ")
    assert place.endswith("test_attribution.py:12")


def test_nothing_is_known_of_no_frames():
    """And that is said."""
    assert waiting_for([]) == ("waiting", "")


@pytest.mark.asyncio
async def test_the_chain_goes_through_tasks_and_plain_awaits():
    """Into the coroutine behind them."""

    class Wrapped:
        def __await__(self):
            return deepest().__await__()

    async def deepest():
        await asyncio.sleep(1)

    async def through_a_task():
        await asyncio.ensure_future(through_an_object())

    async def through_an_object():
        await Wrapped()

    task = asyncio.ensure_future(through_a_task())
    for _ in range(3):
        await asyncio.sleep(0)
    names = [frame.name.rpartition(".")[2] for frame in frames_behind(task)]
    assert names[-3:] == ["through_an_object", "deepest", "sleep"]
    task.cancel()


def test_only_the_slowest_tenth_is_told_of_and_the_largest_cause_comes_first():
    """The others say what a call takes usually."""
    calls = [Call(1.0) for _ in range(18)]
    for call in calls:
        call.add("own CPU", 1.0)
    for _ in range(2):
        slow = Call(10.0)
        slow.add("own CPU", 1.0)
        slow.add("waiting for a lock", 4.0, "a.py:1")
        slow.add("waiting for a lock", 3.0, "b.py:2")
        calls.append(slow)
    told = attribute(calls)
    assert (told.calls, told.slowest) == (20, 2)
    assert [(c.name, c.where, pytest.approx(c.share)) for c in told.causes] == [
        ("waiting for a lock", "a.py:1", 0.7),
        ("unexplained", "", 0.2),
        ("own CPU", "", 0.1),
    ]


@pytest.mark.asyncio
async def test_nothing_of_the_tracer_is_left_behind():
    """Not even when the body fails."""
    selector = asyncio.get_running_loop()._selector
    before = (selector.select.__func__, Handle._run, list(gc.callbacks))

    async def broken():
        raise ValueError("once too often")

    with pytest.raises(Unrepeatable, match="ValueError: once too often"):
        await explain_async(broken, NoClock())
    assert (selector.select.__func__, Handle._run, list(gc.callbacks)) == before


@pytest.mark.asyncio
async def test_what_a_body_gets_and_raises_passes_through():
    """Values, exceptions and cancellation arrive as ever."""
    seen = []

    async def body():
        try:
            await asyncio.wait_for(asyncio.sleep(10), 0.001)
        except TimeoutError:
            seen.append("timeout")
        seen.append(await asyncio.sleep(0, "value"))

    with Tracer(NoClock()) as tracer:
        await tracer.call(body)
    assert seen == ["timeout", "value"]


def test_a_sync_body_that_fails_says_nothing():
    """It has said its verdict before."""
    with pytest.raises(Unrepeatable, match="ZeroDivisionError"):
        explain_sync(lambda: 1 / 0, NoClock())


@pytest.mark.anyio
async def test_on_any_loop_the_chain_is_read():
    """On trio too, though not who kept the loop busy."""

    async def body():
        await anyio.sleep(0.002)

    told = await explain_async(body, NoClock())
    assert told.causes[0].name == "waiting for a timer"
    on_trio = "trio" in inspect.getmodule(anyio.get_cancelled_exc_class()).__name__
    assert bool(told.notes) == on_trio
