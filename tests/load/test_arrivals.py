"""Arrivals are fixed beforehand, in order, and as many as were asked for."""

from itertools import pairwise
from math import ceil, floor
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.load.arrivals import arrivals
from pytest_isolation.load.plan import MIX, TALK, Operation

seeds = st.integers(0, 2**32)
lengths = st.floats(0.01, 20)
pauses = st.floats(0.02, 5)


@given(seeds, lengths, pauses)
def test_the_same_seed_makes_the_same_arrivals(seed, seconds, pause_s):
    """So that a run can be compared with another, and nothing that happens in it can move them."""
    first, second = (list(arrivals(Random(seed), seconds, pause_s, MIX)) for _ in range(2))
    assert first == second


@given(seeds, lengths, pauses, st.booleans())
def test_they_come_in_order_and_within_the_phase(seed, seconds, pause_s, at_once):
    due = [arrival.due_s for arrival in arrivals(Random(seed), seconds, pause_s, TALK, at_once)]
    assert due == sorted(due)
    assert all(0 <= at < seconds for at in due)


@given(seeds, lengths, pauses)
def test_the_rate_is_right_whatever_chance_does(seed, seconds, pause_s):
    """One in each slot; the last slot may be cut off."""
    count = len(list(arrivals(Random(seed), seconds, pause_s, TALK)))
    assert floor(seconds / pause_s) <= count <= ceil(seconds / pause_s)


@given(seeds, lengths, pauses)
def test_no_two_of_a_user_are_further_apart_than_two_pauses(seed, seconds, pause_s):
    due = [arrival.due_s for arrival in arrivals(Random(seed), seconds, pause_s, TALK)]
    assert all(later - earlier <= 2 * pause_s + 1e-9 for earlier, later in pairwise(due))


@given(seeds, lengths, pauses)
def test_a_burst_begins_at_once(seed, seconds, pause_s):
    assert next(arrivals(Random(seed), seconds, pause_s, TALK, at_once=True)).due_s == 0


def test_operations_are_drawn_by_their_weights():
    mix = {Operation.CHAT: 3.0, Operation.IDLE: 1.0, Operation.MESSAGES: 0.0}
    drawn = [arrival.operation for arrival in arrivals(Random(1), 4000, 1, mix)]
    assert drawn.count(Operation.CHAT) / len(drawn) == pytest.approx(0.75, abs=0.03)
    assert drawn.count(Operation.MESSAGES) == 0


def test_users_do_not_march_in_step():
    """Many users who come once a second do not all come at the same moment of it."""
    places = {round(next(arrivals(Random(f"1:steady:{user}"), 10, 1, TALK)).due_s, 2) for user in range(100)}
    assert len(places) > 50
