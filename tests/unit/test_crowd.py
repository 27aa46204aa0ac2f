"""Everybody plays at once, each in a task or thread and a Context of its own, and nobody is lost."""

import asyncio
import contextvars
import sys
import threading
import time

import anyio
import pytest

from pytest_isolation.phases.crowd import crowd, crowd_in_threads
from pytest_isolation.users.cast import Cast

pytestmark = pytest.mark.anyio
ambient = contextvars.ContextVar("ambient", default="nobody")


@pytest.fixture
def users():
    return Cast(1, "test", 0).users(5)


async def test_all_users_are_in_flight_together(users):
    """Each waits for all the others."""
    arrived = 0
    everybody = anyio.Event()

    async def scenario(user):
        nonlocal arrived
        arrived += 1
        if arrived == len(users):
            everybody.set()
        await everybody.wait()

    runs = await crowd(scenario, users, 10)
    assert [(run.user, run.ended, run.error) for run in runs] == [(f"user-0{i}", True, None) for i in range(5)]


async def test_no_context_variable_reaches_another_user(users):
    """Each has a copy of the test's Context: what a fixture set is seen, what a user sets is not."""
    token = ambient.set("the test")
    seen = []

    async def scenario(user):
        seen.append(ambient.get())
        ambient.set(user.id)
        await anyio.sleep(0)
        assert ambient.get() == user.id

    runs = await crowd(scenario, users, 10)
    assert seen == ["the test"] * 5
    assert [run.error for run in runs] == [None] * 5
    assert ambient.get() == "the test"
    ambient.reset(token)


async def test_a_failure_is_that_users_own(users):
    """pytest.fail counts as one, although it is no Exception."""

    async def scenario(user):
        if user.index == 2:
            pytest.fail("no")
        if user.index == 3:
            raise ValueError("no")
        await anyio.sleep(0)

    runs = await crowd(scenario, users, 10)
    assert [type(run.error).__name__ for run in runs] == ["NoneType", "NoneType", "Failed", "ValueError", "NoneType"]
    assert all(run.ended for run in runs)


async def test_who_waits_for_ever_is_stopped_and_has_not_ended(users):
    """A pool that leaks a slot starves somebody; the test must come to an end."""

    async def scenario(user):
        user.observe("began")
        if user.index == 4:
            await anyio.sleep_forever()

    runs = await crowd(scenario, users, 0.05)
    assert [run.ended for run in runs] == [True] * 4 + [False]
    assert runs[4].error is None
    assert runs[4].observations[0].value == "began"


async def test_arrivals_are_paced_and_timed_from_when_they_were_due(users):
    """The fifth of 100 a second is due 40 ms after the first."""
    begun = time.perf_counter()
    arrived = []

    async def scenario(user):
        arrived.append(time.perf_counter() - begun)
        if user.index == 0:
            time.sleep(0.03)  # blocks the loop: the next ones are late, and it shows

    runs = await crowd(scenario, users, 10, rate=100)
    assert all(at >= index / 100 for index, at in enumerate(arrived))
    assert runs[1].seconds >= 0.019


async def test_an_interruption_from_outside_stops_everybody(users):
    """Ctrl-C must not leave tasks behind."""
    running = 0

    async def scenario(user):
        nonlocal running
        running += 1
        try:
            await anyio.sleep_forever()
        finally:
            running -= 1

    with anyio.move_on_after(0.02):
        await crowd(scenario, users, 10)
    assert running == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_hits_one_user_stops_nobody_else(users, anyio_backend):
    """A backend that cancels the wrong task is at fault, and it shows whom it hit."""

    async def scenario(user):
        if user.index == 0:
            asyncio.current_task().cancel()
        await anyio.sleep(0.01)

    runs = await crowd(scenario, users, 10)
    assert [type(run.error).__name__ for run in runs] == ["CancelledByOthers"] + ["NoneType"] * 4
    assert [run.ended for run in runs] == [True] * 5


def test_threads_start_together_and_switch_often(users):
    """A synchronous scenario is played by threads behind a barrier."""
    before, inside = sys.getswitchinterval(), []
    barrier = threading.Barrier(5)

    def scenario(user):
        inside.append(sys.getswitchinterval())
        barrier.wait(5)

    runs = crowd_in_threads(scenario, users, 10)
    assert [run.ended for run in runs] == [True] * 5
    assert max(inside) < before == sys.getswitchinterval()


def test_threads_have_contexts_of_their_own_and_errors_too(users):
    """As tasks have."""
    token = ambient.set("the test")

    def scenario(user):
        assert ambient.get() == "the test"
        ambient.set(user.id)
        if user.index == 1:
            raise ValueError("no")

    runs = crowd_in_threads(scenario, users, 10)
    assert [type(run.error).__name__ for run in runs] == ["NoneType", "ValueError", "NoneType", "NoneType", "NoneType"]
    assert ambient.get() == "the test"
    ambient.reset(token)


def test_a_thread_that_waits_for_ever_is_left_behind(users):
    """Threads cannot be stopped; the test comes to an end all the same."""
    release = threading.Event()

    def scenario(user):
        if user.index == 3:
            release.wait()

    runs = crowd_in_threads(scenario, users, 0.1)
    release.set()
    assert [run.ended for run in runs] == [True, True, True, False, True]
