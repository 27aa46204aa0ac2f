"""Who waits by asking again and again gets an answer, whatever the order: a finding is only what is stuck in all."""

import asyncio
from contextlib import aclosing

import anyio
import pytest
from exploration.corpus import Case


class GroupOfAnyio:
    """Its scope asks its tasks to end at every turn of the loop, until they have."""

    async def handle(self, user):
        with anyio.move_on_after(0.001):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 1)
                group.start_soon(anyio.sleep, 1)
        return user.secret()


class FailsInAGroup:
    """One child of a group ends the others."""

    async def handle(self, user):
        async def first():
            await anyio.sleep(0)
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(first)
            group.start_soon(anyio.sleep, 1)
        return user.secret()


class AsksAgain:
    """A task of its own is waited for without an event."""

    async def handle(self, user):
        done = False

        async def work():
            nonlocal done
            await asyncio.sleep(0)
            done = True

        task = asyncio.create_task(work())
        while not done:
            await asyncio.sleep(0)
        await task
        return user.secret()


class AsksUntilATimer(AsksAgain):
    """What is waited for takes time."""

    async def handle(self, user):
        loop = asyncio.get_running_loop()
        end = loop.time() + 3
        loop.call_at(end, lambda: None)
        while loop.time() < end:
            await asyncio.sleep(0)
        return user.secret()


class StreamOfAnyio:
    """As Starlette's middleware has it: a stream between two tasks, left before its end."""

    async def handle(self, user):
        async def parts():
            async with anyio.create_task_group() as group:
                send, receive = anyio.create_memory_object_stream[str]()

                async def produce():
                    async with send:
                        for _ in range(3):
                            await send.send(user.secret())

                group.start_soon(produce)
                async with receive:
                    async for part in receive:
                        yield part
                group.cancel_scope.cancel()

        async with aclosing(parts()) as stream:
            return [part async for part in stream]


FAIR = [GroupOfAnyio, FailsInAGroup, AsksAgain, StreamOfAnyio]


@pytest.mark.parametrize("backend", FAIR, ids=lambda one: one.__name__)
def test_who_asks_again_and_again_is_not_starved(backend, explore):
    """In systematic orders and in random ones, with a user who is cancelled."""
    findings, done = explore(Case(backend.__name__, backend), users=2, random_runs=30)
    assert findings == []
    assert done.exhausted.startswith("all schedules with ≤ 1 deviation, 2 users")


def test_a_scenario_may_take_many_steps(explore):
    """How many, those show who are alone."""

    class Long:
        async def handle(self, user):
            for _ in range(2000):
                await asyncio.sleep(0)
            return user.secret()

    findings, done = explore(Case("Long", Long), users=2, deviations=0, random_runs=3)
    assert findings == []
    assert not any("as asyncio would" in note for note in done.notes)


def test_a_run_that_was_left_to_asyncio_is_told_of(explore):
    """For its order was only in part the search's."""
    findings, done = explore(Case("AsksUntilATimer", AsksUntilATimer), users=2, deviations=0, random_runs=5)
    assert findings == []
    assert any("runs went on as asyncio would after" in note for note in done.notes)


def test_who_asks_for_what_never_comes_is_starved(explore):
    """In any order."""

    class Waits:
        def __init__(self):
            self.here = 0

        async def handle(self, user):
            self.here += 1
            await asyncio.sleep(0)
            while self.here == 2:
                await asyncio.sleep(0)
            self.here -= 1
            return user.secret()

    [first, *_], _ = explore(Case("Waits", Waits), users=2, deviations=0)
    assert first.kind == "starved"
