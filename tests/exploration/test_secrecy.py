"""What carries no canary: how long something takes, how it ends, a count; and what users leave behind."""

import asyncio
import os
import uuid
import zlib

import pytest
from exploration.corpus import Case, io


def choice(user):
    """Which of two documents a user opens is its secret."""
    return zlib.crc32(user.secret().encode()) % 2


class Cache:
    """Answers are the same for all, and whoever comes second has it sooner."""

    own = False

    def __init__(self):
        self.cache = set()

    async def handle(self, user):
        if user.index:
            await asyncio.sleep(0.1)
        document = (user.id if self.own else "", choice(user) if user.index == 0 else 1)
        if document not in self.cache:
            await asyncio.sleep(0.05)
            self.cache.add(document)
        await io()
        return "the document"


class OwnCache(Cache):
    """What somebody else has opened makes no difference."""

    own = True


class Quota:
    """All have one quota, of which the first user takes as much as its secret says."""

    own = False

    def __init__(self):
        self.used = {}

    async def handle(self, user):
        whose = user.id if self.own else ""
        self.used[whose] = self.used.get(whose, 0) + (3 if user.index == 0 and choice(user) else 1)
        await io()
        return "quota exceeded" if self.used[whose] > 4 and user.index else "served"


class OwnQuota(Quota):
    """A quota for each."""

    own = True


class Numbered:
    """Answers are numbered for all together."""

    def __init__(self):
        self.number = 0

    async def handle(self, user):
        self.number += 1
        mine = self.number
        await io()
        return {"number": mine}


class RandomNames:
    """Every answer has a name of its own, made at random."""

    async def handle(self, user):
        user.secret()
        await io()
        return {"request": str(uuid.uuid4()), "hex": uuid.uuid4().hex, "document": "d"}


def test_a_cache_for_all_shows_in_when_others_are_answered(explore):
    """In virtual time a delay is as exact as a word; the token plays it again."""
    [first, *_], _ = explore(Case("Cache", Cache), random_runs=400)
    assert first.summary.endswith(
        "was answered at another time than before, though only the secrets of user-00 were others"
    )
    assert first.expected.startswith("after ")
    assert first.expected != first.seen
    [again, *_], _ = explore(Case("Cache", Cache), replay=first.replay)
    assert (again.summary, again.expected, again.seen) == (first.summary, first.expected, first.seen)


def test_a_quota_for_all_shows_in_what_others_are_told(explore):
    """Nobody's secret is in it, and yet it depends on one."""
    findings, _ = explore(Case("Quota", Quota), random_runs=400)
    assert any("quota exceeded" in finding.expected + finding.seen for finding in findings)


def test_a_number_that_counts_for_all_is_noted(explore):
    """It shows that somebody else is there, and nothing else of anybody."""
    findings, done = explore(Case("Numbered", Numbered), random_runs=20)
    assert findings == []
    assert any("sees something else when user-00 is not there" in note for note in done.notes)


@pytest.mark.parametrize("kind", [OwnCache, OwnQuota, RandomNames])
def test_what_is_each_users_own_tells_nobody_anything(kind, explore):
    """Nor do names made at random, which differ from run to run with the same secrets too."""
    findings, done = explore(Case(kind.__name__, kind), random_runs=200)
    assert findings == []
    assert not any("not there" in note for note in done.notes)


class LeavesTasks:
    """A task of each user goes on for an hour."""

    seconds = 3600

    def __init__(self):
        self.tasks = []

    async def handle(self, user):
        self.tasks.append(asyncio.ensure_future(asyncio.sleep(self.seconds)))
        return user.secret()


class LetsTasksEnd(LeavesTasks):
    """It ends by itself soon."""

    seconds = 0.1


class ChangesEnvironment:
    """Whoever comes while others are there leaves something in the environment."""

    def __init__(self):
        self.inside = 0

    async def handle(self, user):
        self.inside += 1
        await io()
        if self.inside > 1:
            os.environ["ISOLATION_TEST_BUSY"] = "1"
        self.inside -= 1
        return user.secret()


def test_a_task_that_a_user_leaves_behind_is_found(explore):
    """At the end of a run, when a virtual second has passed."""
    findings, _ = explore(Case("LeavesTasks", LeavesTasks))
    assert {finding.kind for finding in findings} == {"left"}
    assert explore(Case("LetsTasksEnd", LetsTasksEnd), random_runs=20)[0] == []


def test_what_a_run_changes_for_the_whole_process_is_found(explore, monkeypatch):
    """After each run."""
    monkeypatch.setenv("ISOLATION_TEST_BUSY", "0")
    [finding, *_], _ = explore(Case("ChangesEnvironment", ChangesEnvironment))
    assert finding.kind == "ambient"
    assert "os.environ['ISOLATION_TEST_BUSY'] was changed" in finding.summary
