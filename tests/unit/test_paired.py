"""Whether something got slower is proven pair by pair, in the middle and in the tail."""

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.latency.paired import Pairs, turns
from pytest_isolation.verdicts import Outcome


def compared(seed, slower=1.0, tail=0.0, factor=1.0, limit=1000, tolerance=0.05):
    """Pairs of a usual latency, on a machine that drifts, with a spike now and then on either side."""
    rng, pairs, speed = random.Random(seed), Pairs(tolerance), 1.0
    for _ in range(limit):
        speed *= rng.lognormvariate(0, 0.02)  # whatever the machine does it does to both
        work = speed * rng.lognormvariate(0, 0.3)

        def call(work=work):
            spike = 1 + rng.expovariate(1) if rng.random() < 0.01 else 1.0
            return work * (1 + abs(rng.gauss(0, 0.03))) * spike

        old, new = call(), call() * slower
        pairs.add(old, new * factor if rng.random() < tail else new)
        if pairs.is_slower:
            break
    return pairs


@pytest.mark.parametrize("slower", [1.0, 1.03, 1.05])
def test_what_is_no_slower_than_the_tolerance_never_fails(slower):
    """60 comparisons, on a machine that drifts by more than that."""
    outcomes = [compared(seed, slower, limit=300).comparison("new").outcome for seed in range(60)]
    assert Outcome.FAIL not in outcomes
    if slower == 1.0:
        assert outcomes.count(Outcome.PASS) == 60


def test_ten_percent_are_found_every_time_and_soon():
    """In a median of at most forty pairs."""
    done = [compared(seed, 1.1) for seed in range(60)]
    assert all(pairs.comparison("new").outcome is Outcome.FAIL for pairs in done)
    assert sorted(len(pairs) for pairs in done)[30] <= 40


def test_a_pair_may_be_of_the_medians_of_several_calls():
    """They scatter less; the tail is still that of single calls."""
    pairs = Pairs(0.05)
    pairs.add_calls([1.0, 1.0, 9.0], [1.1, 9.0, 1.1])
    assert (pairs.comparison("new").ratio, pairs.discordant, pairs.discordant_slower) == (pytest.approx(1.1), 2, 1)
    assert pairs.comparison("new").calls == 3


def test_a_noisy_machine_does_not_make_a_tail_of_what_is_within_the_tolerance():
    """Where single calls scatter by half, more of those that differ are slower, because all of them are a little."""
    rng, pairs = random.Random(4), Pairs(0.05)
    for _ in range(4000):
        pairs.add(rng.lognormvariate(0, 0.4), 1.05 * rng.lognormvariate(0, 0.4))
    assert pairs.comparison("new").outcome is not Outcome.FAIL


@pytest.mark.parametrize(("tail", "factor"), [(0.04, 3.0), (0.08, 2.0)])
def test_a_change_of_the_tail_alone_is_found(tail, factor):
    """In the middle nothing has changed; most of them are found within a thousand pairs."""
    done = [compared(seed, tail=tail, factor=factor, limit=1500).comparison("new") for seed in range(30)]
    assert sum(c.outcome is Outcome.FAIL for c in done) >= 27
    assert all("pairs that differ by more than 30 %" in c.reason for c in done if c.outcome is Outcome.FAIL)


def test_what_is_as_slow_as_the_tolerance_is_undecided():
    """Neither side is proven."""
    pairs = Pairs(0.05)
    for number in range(400):
        pairs.add(1.0, 1.06 if number % 2 else 1.04)
    assert pairs.comparison("new").outcome is Outcome.UNDECIDED


def test_too_few_pairs_prove_nothing():
    """However clear they look."""
    pairs = Pairs(0.05)
    for _ in range(19):
        pairs.add(1.0, 3.0)
    assert not pairs.is_slower
    assert pairs.comparison("new").outcome is Outcome.UNDECIDED


def test_the_ratio_comes_with_its_interval():
    """Of the medians of pairs, exact for any distribution."""
    comparison = compared(1, 1.2).comparison("get")
    assert comparison.name == "get"
    assert comparison.interval.low <= comparison.ratio <= comparison.interval.high
    assert comparison.ratio == pytest.approx(1.2, rel=0.05)


@given(st.lists(st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)), min_size=1, max_size=60), st.floats(0.001, 1000))
def test_the_unit_is_no_matter(pairs, unit):
    """Seconds or milliseconds."""
    one, other = Pairs(0.05), Pairs(0.05)
    for old, new in pairs:
        if abs(new / old - 1.05) < 1e-6 or abs(new / old - 1.3) < 1e-6 or abs(old / new - 1.3) < 1e-6:
            continue  # on the boundary it is up to rounding
        one.add(old, new)
        other.add(old * unit, new * unit)
    assert (one.slower, one.discordant, one.discordant_slower) == (
        other.slower,
        other.discordant,
        other.discordant_slower,
    )


def test_a_clock_that_stands_still_is_no_division_by_zero():
    """On a coarse clock both may take nothing."""
    pairs = Pairs(0.05)
    for _ in range(100):
        pairs.add(0.0, 0.0)
    assert pairs.comparison("new").outcome is Outcome.PASS


def test_the_order_turns():
    """ABBA."""
    assert list(islice(turns(8), 8)) == [False, True, True, False, False, True, True, False]
