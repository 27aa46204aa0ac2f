"""Memory that grows with the runs of a body is found; what is bounded is not, however slowly it fills."""

import asyncio
import collections
import random
import tracemalloc

import pytest

from pytest_isolation.errors import NothingMeasured
from pytest_isolation.growing import Growing
from pytest_isolation.oracles.growth import Trend, last_third, tau, theil_sen, trend
from pytest_isolation.phases.rounds import RoundPlan
from pytest_isolation.verdicts import Held, MemoryBudget, Outcome


class Context:
    """What a request carries."""

    __slots__ = ("data", "user")

    def __init__(self, user):
        self.user = user
        self.data = {"user": user, "kinds": [user] * 3}


class Server:
    """Serves requests, and keeps something of them.

    Args:
        kind: of what is kept.
        seed: of what is random in a request.
        often: 1 keeps 0.6 to 13 KB per 1000 requests, 10 ten times as much.
    """

    def __init__(self, kind, seed, often=1):
        self.keep = getattr(self, kind)
        self.random = random.Random(seed)
        self.often = often
        self.number = 0
        self.kept = []
        self.table = {}
        self.ring = collections.deque(maxlen=100)
        self.cache = collections.OrderedDict()
        self.counts = collections.Counter()

    async def __call__(self):
        self.number += 1
        context = Context(f"user-{self.number}")
        {str(key): key for key in range(self.random.randrange(1, 30))}
        await asyncio.create_task(asyncio.sleep(0))
        if self.random.random() < 0.02:
            context.data["self"] = context  # garbage that only the collector finds
        self.keep(self.number)

    def is_due(self, period):
        return self.number % max(1, period // self.often) == 0

    def objects(self, number):  # 0.6 KB per 1000
        if self.is_due(100):
            self.kept.append(Context.__new__(Context))

    def texts(self, number):  # 5 KB
        if self.is_due(20):
            self.kept.append(f"{number:050d}")

    def blocks(self, number):  # 5 KB, one at a time
        if self.is_due(1000):
            self.kept.append(bytes(5000))

    def keys(self, number):  # 3 KB, and a table that doubles
        if self.is_due(10):
            self.table[number] = None

    def contexts(self, number):  # 10 KB and more
        if self.is_due(40):
            self.kept.append(Context(f"user-{number}"))

    def tasks(self, number):  # that have ended, 13 KB and more
        if self.is_due(50):
            self.kept.append(asyncio.ensure_future(asyncio.sleep(0)))

    def nothing(self, number):
        pass

    def last_ones(self, number):
        self.ring.append((number, f"message {number}"))

    def full_cache(self, number):
        self.cache[number % 30] = f"value {number}"

    def peaks(self, number):
        if self.random.random() < 0.01:
            self.table["now"] = [object() for _ in range(self.random.randrange(2000))]

    def labels(self, number):
        self.counts[f"label {self.random.randrange(20)}"] += 1

    def slow_cache(self, number):  # bounded at 400 entries, which it has after 8,000 requests
        if self.is_due(20):
            self.cache[number] = f"value {number}"
            if len(self.cache) > 400:
                self.cache.popitem(last=False)


LEAKS = ("objects", "texts", "blocks", "keys", "contexts", "tasks")
STEADY = ("nothing", "last_ones", "full_cache", "peaks", "labels", "slow_cache")


def growth(server, limit_bytes, plan):
    """What is said of its growth."""
    growing = Growing(MemoryBudget(growth_bytes=limit_bytes), plan)
    asyncio.run(growing.play_async(server))
    [verdict] = growing.verdicts()
    return verdict


# So much time that a busy machine makes no fewer runs.
PLAN = RoundPlan(seconds=3600.0)
# Small rounds, in which ten times as much is kept.
QUICK = RoundPlan(seconds=600.0, runs=30)


def some(kinds):
    """The first two often, all of them in the soak."""
    return [pytest.param(kind, marks=() if at < 2 else pytest.mark.soak) for at, kind in enumerate(kinds)]


@pytest.mark.parametrize("kind", some(LEAKS))
def test_a_leak_is_found(kind):
    """After it has been looked at three times, with the line that holds on to it."""
    verdict = growth(Server(kind, 1, often=10), 3000, QUICK)
    assert (verdict.what, verdict.outcome, verdict.extended) == (Held.GROWTH, Outcome.FAIL, 4)
    assert verdict.value_bytes > 3000
    assert "tests/oracles/test_growth.py" in {line.path for line in verdict.lines} or kind == "tasks"
    assert all("pytest_isolation" not in line.path for line in verdict.lines)


@pytest.mark.parametrize("kind", [*some(STEADY[:-1]), "slow_cache"])
def test_what_is_bounded_is_silent(kind):
    """Also what fills up so slowly that it looked like a leak at first."""
    verdict = growth(Server(kind, 1, often=10), 3000, RoundPlan(seconds=600.0, runs=90))
    assert verdict.outcome is Outcome.PASS, verdict
    assert verdict.lines == ()
    assert (verdict.extended > 1) is (kind == "slow_cache")


@pytest.mark.soak
@pytest.mark.parametrize("kind", LEAKS)
def test_every_leak_is_found_20_of_20_times(kind):
    """From 0.6 to 13 KB per 1000 requests."""
    verdicts = [growth(Server(kind, seed), 300, PLAN) for seed in range(20)]
    assert [verdict.outcome for verdict in verdicts] == [Outcome.FAIL] * 20


@pytest.mark.soak
@pytest.mark.parametrize("kind", STEADY)
def test_what_is_bounded_is_silent_20_of_20_times(kind):
    """With the same limit."""
    verdicts = [growth(Server(kind, seed), 300, PLAN) for seed in range(20)]
    assert [verdict.outcome for verdict in verdicts] == [Outcome.PASS] * 20


def test_a_peak_moves_neither_slope_nor_trend():
    """The median of the slopes of all pairs, and the share of pairs that rise."""
    assert theil_sen([0, 10, 20, 30, 40]) == 10
    assert theil_sen([0, 10, 9999, 30, 40]) == 10
    assert tau([1, 2, 3, 4]) == 1
    assert tau([4, 3, 2, 1]) == -1
    assert tau([1, 1, 1, 1]) == 0
    assert abs(tau([0, 0, 9999, 0, 0, 0])) < 0.3


def test_without_two_readings_there_is_no_trend():
    assert trend([], 500) == Trend(0.0, 0.0, 0, 500)
    assert trend([1000], 500) == Trend(0.0, 0.0, 1, 500)


def test_the_slope_is_told_for_1000_runs():
    assert trend([0, 100, 200], 50).per_thousand_bytes == 2000


@pytest.mark.parametrize(
    ("readings", "limit"),
    [
        ([1000 * n for n in range(7)], 0),  # too few
        ([1000 * n for n in range(12)], 3000),  # less than is allowed
        ([10 * n for n in range(12)], 0),  # as much as the interpreter's own
        ([0, 9000] * 6, 0),  # up and down
        ([9000 - n for n in range(12)], 0),  # down
    ],
)
def test_what_accuses_nobody(readings, limit):
    assert not trend(readings, 500).is_over(limit)


def test_what_accuses():
    assert trend([1000 * n for n in range(8)], 500).is_over(1900)


def test_of_an_extension_the_last_third_counts():
    assert last_third(range(24)) == range(16, 24)
    assert last_third([]) == []


def test_too_few_runs_cannot_say_that_nothing_grows():
    """A leak that comes once in 500 runs would not have shown."""
    verdict = growth(Server("nothing", 1), 3000, RoundPlan(seconds=600.0, runs=5))
    assert verdict.outcome is Outcome.UNDECIDED
    assert "12 rounds of 5 runs: no growth seen, and it takes 1,000 runs to say that there is none" in verdict.reason


def test_too_few_rounds_accuse_nobody():
    """However much it was."""
    server = Server("nothing", 1)
    server.keep = lambda number: server.kept.append(bytes(100_000))
    verdict = growth(server, 3000, RoundPlan(seconds=60.0, rounds=5, runs=5))
    assert verdict.outcome is Outcome.UNDECIDED
    assert "5 rounds of 5 runs: it takes 8 rounds to tell a trend" in verdict.reason


def test_few_runs_do_not_tell_a_leak_from_a_cache_that_fills():
    """Unless it is so much that no cache would."""
    server = Server("nothing", 1)
    server.keep = lambda number: server.kept.append(bytes(2000))
    verdict = growth(server, 3000, RoundPlan(seconds=600.0, runs=5))
    assert (verdict.outcome, verdict.extended) == (Outcome.UNDECIDED, 4)
    assert "in 260 runs it grew, and it takes 1,000 to tell a leak from a cache that fills" in verdict.reason
    assert verdict.lines


def test_few_runs_do_not_tell_that_growth_has_ended():
    """It may have been hidden by ups and downs."""
    server = Server("nothing", 1)
    server.keep = lambda number: server.kept.append(bytes(2000)) if len(server.kept) < 100 else None
    verdict = growth(server, 3000, RoundPlan(seconds=600.0, runs=5))
    assert verdict.outcome is Outcome.UNDECIDED
    assert "it grew at first, and no longer after" in verdict.reason
    assert "runs, and it takes 1,000 to say that it has ended" in verdict.reason


def test_a_slow_body_has_fewer_runs_to_a_round():
    """So that it takes no longer."""
    verdict = growth(lambda: asyncio.sleep(0.002), 3000, RoundPlan(seconds=0.3))
    assert 0 < verdict.runs < 500


def test_a_large_leak_does_not_eat_the_machine():
    """What all rounds keep together is bounded, as far as the first runs tell."""
    server = Server("nothing", 1)
    server.keep = lambda number: server.kept.append(bytes(1_000_000))
    verdict = growth(server, 3000, RoundPlan(seconds=60.0))
    assert verdict.outcome is Outcome.FAIL
    assert len(server.kept) < 200


def test_somebody_elses_tracing_goes_on():
    """What it has counted is not lost."""
    tracemalloc.start(3)
    try:
        growth(Server("nothing", 1), 3000, RoundPlan(seconds=600.0, runs=5))
        assert tracemalloc.get_traceback_limit() == 3
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_a_body_that_stops_tracemalloc_is_refused():
    """Nothing would be measured."""

    async def body():
        tracemalloc.stop()

    with pytest.raises(NothingMeasured, match="the body switched tracemalloc off"):
        growth(body, 3000, RoundPlan(seconds=600.0, runs=5))
