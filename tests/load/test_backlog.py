"""A queue that grows is told from one that is there."""

import random

import pytest

from pytest_isolation.load.backlog import Backlog, slope


def play(arrivals, serve_s, servers=1, seconds=10.0):
    """A queue with so many servers, first come, first served."""
    backlog, free = Backlog(seconds), [0.0] * servers
    for due in arrivals:
        backlog.due(due)
        free.sort()
        free[0] = max(free[0], due) + serve_s
        backlog.done(free[0])
    return backlog


def evenly(rate, seconds=10.0):
    return [n / rate for n in range(int(rate * seconds))]


@pytest.mark.parametrize("rate", [20, 200, 2000])
@pytest.mark.parametrize(("load", "grows"), [(0.5, False), (0.9, False), (1.1, True), (1.5, True), (4.0, True)])
def test_load_beyond_capacity_is_recognised(rate, load, grows):
    """From a tenth too much on, within ten seconds; at 20 a second that is what lies about, 20 requests."""
    assert play(evenly(rate), load / rate).is_growing() is grows


def test_a_long_wait_that_does_not_grow_is_no_overload():
    """Two seconds each, with servers enough: 200 are under way at any time."""
    assert not play(evenly(100), 2.0, servers=400).is_growing()


def test_a_burst_that_is_worked_off_is_no_overload():
    assert not play([0.0] * 200 + evenly(50), 1 / 100).is_growing()


def test_a_burst_that_is_not_worked_off_is_one():
    assert play([0.0] * 200 + evenly(120), 1 / 100).is_growing()


@pytest.mark.parametrize("seed", range(20))
def test_chance_alone_is_no_overload(seed):
    """Independent arrivals at seven tenths of the capacity."""
    chance, due, at = random.Random(seed), [], 0.0
    while (at := at + chance.expovariate(100)) < 10:
        due.append(at)
    assert not play(due, 0.007).is_growing()


@pytest.mark.parametrize("tenth", range(10))
def test_one_stall_is_no_overload(tenth):
    """Wherever it lies, and if it takes the rest of the phase to catch up."""
    backlog = Backlog(10.0)
    for due in evenly(100):
        backlog.due(due)
        backlog.done(tenth + 1.0 + (due - tenth) / 20 if tenth <= due < tenth + 1 else due)
    assert not backlog.is_growing()


def test_a_phase_that_was_broken_off_is_judged_up_to_there():
    """What was due later was never to come."""
    backlog = play(evenly(100, seconds=5.0), 0.005)
    assert not backlog.is_growing(5.0)
    assert len(backlog.curve(5.0)) == 30


def test_a_slope_needs_two_different_places():
    assert slope([]) == slope([1]) == slope([1, 2], at=[3, 3]) == 0
    assert slope([1, 3, 5]) == 2
    assert slope([0, 10], at=[0, 1000]) == 0.01
