"""One run of an exploration: who is waited for, what is left of it, and what is played again for its sake."""

import asyncio
import gc
import sys
from random import Random

import pytest
from exploration.corpus import CONTROLS, Case

from pytest_isolation import exploring
from pytest_isolation.phases.conductor import Conductor
from pytest_isolation.phases.exploration import Stagecraft, play
from pytest_isolation.phases.strategies import Pct, Replay, Uniform
from pytest_isolation.users.cast import Cast


class Nothing:
    """A backend that keeps nothing."""


CAST = Cast(42, "test")
USERS, [PROBE] = CAST.users(3), CAST.users(1, "probe")


def played(scenario, strategy=None, users=3):
    """What came of one run."""
    conductor = Conductor(strategy or Replay(), 10_000)
    some = [CAST.again(user) for user in USERS[:users]]
    return play(Stagecraft(Nothing, scenario), conductor, some, CAST.again(PROBE))


async def replies(user, _backend):
    """A user who asks twice."""
    for _ in range(2):
        await asyncio.sleep(0.001)
        user.observe(user.secret())


@pytest.mark.parametrize("kind", [Uniform, Pct])
def test_a_run_leaves_nothing_to_the_garbage_collector(kind):
    """Not even where users are cancelled; thousands of runs would make it search for a tenth of the time."""
    played(replies)
    gc.collect()
    gc.disable()
    try:
        cut = sum(len(played(replies, kind(Random(seed), length=10)).cancelled) for seed in range(20))
        assert cut > 10
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_whoever_is_cancelled_before_its_first_step_is_not_waited_for():
    """By somebody else's code: its own never runs, and so cannot say that it has ended."""

    async def ends_all_others(user, _backend):
        if user.index == 0:
            for task in asyncio.all_tasks():
                if task.get_name() in ("user-01", "user-02"):
                    task.cancel()
        user.observe("was there")

    came = played(ends_all_others)
    assert [run.ended for run in came.runs] == [True, False, False]
    assert came.probe.ended
    assert not came.waiting


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are never eager before")
def test_eager_tasks_play_as_others(explore):
    """A backend may set such a factory: the first step of each task is where it is made."""

    class Eager(CONTROLS["LockAroundAll"].open):
        def __init__(self):
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            super().__init__()

        async def handle(self, user):
            return await asyncio.create_task(super().handle(user))

    findings, done = explore(Case("Eager", Eager), seconds=5, random_runs=100)
    assert findings == []
    assert done.exhausted


def test_what_a_user_saw_when_is_told_from_its_own_beginning():
    """In seconds of the loop, the end included."""

    async def comes_late(user, _backend):
        await asyncio.sleep(0.25)
        user.observe("late")
        await asyncio.sleep(0.5)

    came = played(comes_late, users=1)
    [run] = came.runs
    assert came.when(run.number) == (0.25, 0.75)
    assert run.seconds == pytest.approx(0.75)
    assert came.when(-1) is None


def test_a_user_is_played_alone_once_for_the_same_steps(explore, monkeypatch):
    """Many schedules are the same to one user: what it met with its own steps in that order and pace is known."""
    seen = []

    class Noted(exploring.Alone):
        def __init__(self, diary, number):
            seen.append((number, tuple(diary.values), tuple(diary.lags.items())))
            super().__init__(diary, number)

    monkeypatch.setattr(exploring, "Alone", Noted)
    findings, _ = explore(CONTROLS["TwoTriesTakeTime"], random_runs=100)
    assert findings == []
    assert len(seen) > 20
    assert len(seen) <= 2 * len(set(seen)), "a user may fail in two ways with the same steps"
