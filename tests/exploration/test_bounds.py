"""A search keeps to its time, ends where there is nothing more, and meets the same chances in every run."""

import asyncio
import random

import pytest
from exploration.corpus import FAULTS, Case

import pytest_isolation.exploring as exploring


def test_what_is_found_is_not_made_short_for_longer_than_the_search_may_take(explore, monkeypatch):
    """The finding is there all the same, and a note says that it may be longer than need be."""
    seconds, report = [0.0], exploring.Explorer._report

    def slow(explorer, find):
        seconds.extend(float(one) for one in range(1000, 0, -1))  # from now on it takes a second to look at the clock
        report(explorer, find)

    monkeypatch.setattr(exploring, "perf_counter", lambda: seconds.pop() if len(seconds) > 1 else seconds[0])
    monkeypatch.setattr(exploring.Explorer, "_report", slow)
    [finding, *_], done = explore(FAULTS["OneRunsWhileAnotherWaits"], deviations=0, seconds=3)
    assert finding
    assert any("the time for making the finding short was over (3 s)" in note for note in done.notes)


def test_a_search_ends_where_no_decisions_are_left(explore):
    """However many deviations are asked for: it was all that there is."""

    class Plain:
        async def handle(self, user):
            return user.secret()

    findings, done = explore(Case("Plain", Plain), users=2, deviations=10**9, cancel=False, random_runs=0)
    assert findings == []
    assert done.exhausted.startswith("all schedules, 2 users, ")


class Jittery:
    """A leak whose order depends on chance: users wait for a random time."""

    def __init__(self):
        self.last = None

    async def handle(self, user):
        self.last = user.secret()
        await asyncio.sleep(random.uniform(0.001, 0.003))
        return self.last


def test_what_a_backend_draws_by_chance_is_the_same_in_each_run(explore):
    """So a token plays the same again; and the numbers of the test itself go on as they would have."""
    random.seed(7)
    expected = random.Random(7).random()
    [finding, *_], done = explore(Case("Jittery", Jittery))
    assert not any("replays" in note for note in done.notes)
    assert random.random() == expected
    for _ in range(5):
        [again, *_], _ = explore(Case("Jittery", Jittery), replay=finding.replay)
        assert (again.summary, again.steps) == (finding.summary, finding.steps)


@pytest.mark.parametrize("showed", [0, 1])
def test_what_comes_from_outside_and_never_again_is_only_suspected(explore, monkeypatch, showed):
    """A difference that threads or sockets had a part in, and that none of three more replays shows, is no finding."""

    class Failing:
        def __init__(self):
            self.present = 0

        async def handle(self, user):
            self.present += 1
            await asyncio.to_thread(int)
            if user.index == 1 and self.present > 1:
                raise ValueError
            await asyncio.sleep(0.01)
            self.present -= 1
            return user.secret()

    again = iter([True, *[True] * showed, *[False] * 10**6])
    monkeypatch.setattr(exploring.Explorer, "_fails_again", lambda *_: next(again))
    monkeypatch.setattr(exploring, "shrink", lambda values, _: values)
    findings, done = explore(Case("Failing", Failing), deviations=0, random_runs=0, cancel=False)
    assert bool(findings) == bool(showed)
    assert any("suspected: user-01 failed" in note for note in done.notes) != bool(showed)
