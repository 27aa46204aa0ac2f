"""Once: made at the first call, whatever becomes of whoever came first."""

import asyncio
import contextvars

import pytest

from reference_impl.lazy import Once

pytestmark = pytest.mark.asyncio
ambient = contextvars.ContextVar("ambient", default="nobody")


class Factory:
    """Counts, waits until it is let go, and fails as often as it is told to."""

    def __init__(self, failures=0):
        self.calls, self.failures, self.gate = 0, failures, asyncio.Event()
        self.seen = None

    async def __call__(self):
        self.calls += 1
        self.seen = ambient.get()
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise OSError("no server")
        return object()


async def test_many_callers_share_one_making():
    """However many come while it is being made."""
    factory = Factory()
    once = Once(factory)
    callers = [asyncio.create_task(once()) for _ in range(10)]
    await asyncio.sleep(0)
    factory.gate.set()
    made = await asyncio.gather(*callers)
    assert len(set(map(id, made))) == factory.calls == 1
    assert await once() is made[0]
    assert once.is_made
    assert once.seconds is not None


async def test_a_first_caller_who_is_cancelled_takes_nothing_from_the_others():
    """The making goes on."""
    factory = Factory()
    once = Once(factory)
    first, second = (asyncio.create_task(once()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    factory.gate.set()
    assert await second is await once()
    assert (first.cancelled(), factory.calls) == (True, 1)


async def test_what_everybody_gave_up_is_there_for_the_next_one():
    """Nobody waits any more, and the work is not lost."""
    factory = Factory()
    once = Once(factory)
    only = asyncio.create_task(once())
    await asyncio.sleep(0)
    only.cancel()
    await asyncio.wait([only])
    factory.gate.set()
    await once()
    assert factory.calls == 1


async def test_a_failure_is_everybodys_who_waits_and_the_next_one_tries_again():
    """It is not kept for ever."""
    factory = Factory(failures=1)
    factory.gate.set()
    once = Once(factory)
    results = await asyncio.gather(once(), once(), return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError]
    assert not once.is_made
    await once()
    assert factory.calls == 2


async def test_a_failure_that_nobody_waits_for_is_silent_and_forgotten():
    """Its caller was cancelled."""
    factory = Factory(failures=1)
    once = Once(factory)
    only = asyncio.create_task(once())
    await asyncio.sleep(0)
    only.cancel()
    await asyncio.wait([only])
    factory.gate.set()
    await asyncio.sleep(0.001)
    await once()
    assert factory.calls == 2


async def test_nothing_of_the_first_user_gets_into_what_all_share():
    """The factory sees an empty Context."""
    ambient.set("alice")
    factory = Factory()
    factory.gate.set()
    await Once(factory)()
    assert factory.seen == "nobody"


async def test_closing_stops_a_factory_at_work_and_tells_who_waits():
    """And leaves no task."""
    factory = Factory()
    once = Once(factory)
    waiting = asyncio.create_task(once())
    await asyncio.sleep(0)
    await once.aclose()
    with pytest.raises(RuntimeError, match="closed while it was being made"):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_after_closing_it_is_made_anew():
    """A backend may be started again."""
    factory = Factory()
    factory.gate.set()
    once = Once(factory)
    first = await once()
    await once.aclose()
    assert not once.is_made
    assert await once() is not first
