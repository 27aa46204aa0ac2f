"""A finding says who waits for whom, and which step showed it."""

import asyncio

import pytest
from exploration.corpus import FAULTS, Case, Pooled

from pytest_isolation.errors import MisuseError


def marked(finding):
    return [line for line in finding.steps.splitlines() if line.startswith("*")]


def test_a_deadlock_shows_its_circle(explore):
    """Who holds what the other one waits for."""
    [finding, *_], _ = explore(FAULTS["LocksAreTakenCrosswise"])
    assert "user-00 stands at corpus.py" in finding.steps
    assert "waits until a Lock is released; it is held by user-01" in finding.steps
    assert "! they wait for one another: user-00 → user-01 → user-00" in finding.steps


def test_who_starves_is_told_who_has_gone_with_what_it_waits_for(explore):
    """Whoever is cancelled takes the permit away."""
    [finding, *_], _ = explore(FAULTS["SemaphoreIsLostOnTimeout"])
    assert "waits until a Semaphore is released; it is held by user-00, which has ended" in finding.steps


def test_what_is_missing_from_a_pool_has_a_name(explore):
    """A connection that never comes back."""

    class Kept(Pooled):
        async def handle(self, user):
            connection = await self.pool.get()
            await asyncio.sleep(0.001)
            self.pool.put_nowait(connection)
            return user.secret()

    [finding, *_], _ = explore(Case("Kept", Kept))
    assert (
        "waits for something in a Queue; taken from it, and not put back, by user-00, which has ended" in finding.steps
    )


class Counted:
    """It closes when all that was lent has come back, as pools do."""

    def __init__(self):
        self.lent, self.idle = 0, asyncio.Event()
        self.idle.set()

    async def handle(self, user):
        self.lent += 1
        self.idle.clear()
        await self.work()
        self.lent -= 1
        if not self.lent:
            self.idle.set()
        return user.secret()

    async def work(self):
        await asyncio.sleep(0.001)

    async def aclose(self):
        await self.idle.wait()


class Patient(Counted):
    """Who is cancelled gives back what it was lent."""

    async def work(self):
        await asyncio.wait([asyncio.ensure_future(super().work())])

    async def handle(self, user):
        try:
            return await super().handle(user)
        except asyncio.CancelledError:
            self.lent -= 1
            if not self.lent:
                self.idle.set()
            raise


def test_a_backend_that_does_not_close_in_some_order_is_a_finding(explore):
    """Whoever is cancelled keeps what it was lent, and nobody else ever needs it."""
    [finding, *_], _ = explore(Case("Counted", Counted))
    assert (finding.kind, finding.user) == ("starved", "everybody")
    assert finding.summary == "the backend never closed, though it did when users had been alone"
    assert "aclose()  await self.idle.wait()" in finding.seen
    assert "whoever closes the backend stands at" in finding.steps
    [again, *_], _ = explore(Case("Counted", Counted), replay=finding.replay)
    assert again.summary == finding.summary


def test_a_backend_that_closes_in_every_order_is_none(explore):
    """Though users are cancelled."""
    findings, done = explore(Case("Patient", Patient), seconds=5, random_runs=50)
    assert findings == []
    assert done.exhausted


def test_a_backend_that_never_closes_is_a_misuse(explore):
    """No order has a part in it."""

    class Open(Counted):
        async def aclose(self):
            await asyncio.Event().wait()

    with pytest.raises(
        MisuseError, match=r"did not close after users who were alone: .*, at test_waiting\.py:\d+ aclose\(\)"
    ):
        explore(Case("Open", Open))


def test_a_line_in_an_asynchronous_generator_is_seen(explore):
    """Behind the one who asks for its next value."""

    class Lines:
        def __init__(self):
            self.is_busy, self.never = False, asyncio.Event()

        async def lines(self, user):
            yield user.secret()
            if self.is_busy:
                await self.never.wait()
            self.is_busy = True
            await asyncio.sleep(0)
            self.is_busy = False

        async def handle(self, user):
            return [line async for line in self.lines(user)]

    [finding, *_], _ = explore(Case("Lines", Lines))
    assert "lines()  await self.never.wait(), and waits until" in finding.steps


def test_who_waits_for_a_task_says_for_which(explore):
    """And what that one waits for is said where it is a user's."""

    class Joined:
        def __init__(self):
            self.never, self.task = asyncio.Event(), None

        async def handle(self, user):
            if self.task is None:
                self.task = asyncio.create_task(
                    self.never.wait() if user.index == 1 else asyncio.sleep(0), name="start"
                )
            await asyncio.shield(self.task) if user.index != 2 else await self.task
            return user.secret()

    findings, _ = explore(Case("Joined", Joined))
    assert any("waits for the task start" in finding.steps for finding in findings)


def test_what_goes_on_for_ever_says_who_does(explore):
    """Most of the last steps are its own."""

    class Spins:
        def __init__(self):
            self.inside = 0

        async def handle(self, user):
            self.inside += 1
            await asyncio.sleep(0)
            crowded = self.inside > 1
            while crowded and user.index == 1:
                await asyncio.sleep(0)
            self.inside -= 1
            return user.secret()

    [finding, *_], _ = explore(Case("Spins", Spins))
    assert "! it went on for more than" in finding.steps
    assert "user-01 made " in finding.steps


def test_the_step_that_showed_it_is_marked(explore):
    """Also where nothing differs from what asyncio does by itself."""
    [finding, *_], _ = explore(FAULTS["CurrentUserIsGlobal"])
    assert ">" not in finding.steps
    [line] = marked(finding)
    assert f"{finding.user}: corpus.py" in line
