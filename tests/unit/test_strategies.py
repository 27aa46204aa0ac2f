"""Strategies: which decisions a search takes, without any event loop."""

import random
from collections import Counter
from itertools import pairwise

from pytest_isolation.phases.shrink import shrink, stripped, weight
from pytest_isolation.phases.strategies import Options, Pct, Pos, Replay, Systematic, Uniform, dense, mixed, sparse


def decided(strategy, options):
    """The decisions of a run whose every decision has so many options."""
    strategy.meet(range(max(options)))
    return [strategy.pick(range(count)) for count in options]


def all_of(systematic, options):
    """The decisions of every run, with their order."""
    attempts, runs = systematic.attempts(), []
    strategy = next(attempts)
    while True:
        runs.append((strategy.order, tuple(decided(strategy, options))))
        try:
            strategy = attempts.send(options)
        except StopIteration:
            return runs


def test_systematic_search_makes_every_run_once():
    """All with no deviation, with one, with two; in both orders."""
    runs = all_of(Systematic(2), [2, 3])
    for order in ("fifo", "sticky"):
        assert sorted(values for kind, values in runs if kind == order) == sorted(
            (a, b) for a in range(2) for b in range(3)
        )


def test_systematic_search_takes_the_fewest_deviations_first():
    """So what it finds has no fewer."""
    sizes = [weight(values)[0] for _, values in all_of(Systematic(3), [2, 3, 2, 2])]
    assert sizes == sorted(sizes)


def test_systematic_search_says_what_it_has_exhausted():
    """A level counts when all its runs have been made."""
    systematic = Systematic(1, orders=["fifo"])
    attempts = systematic.attempts()
    next(attempts)
    assert systematic.level == -1
    attempts.send([3])
    assert systematic.level == 0
    attempts.send([3])
    assert (systematic.level, systematic.runs, systematic.exhausted) == (0, 2, 1)
    assert next(attempts, None) is None
    assert (systematic.level, systematic.runs) == (1, 3)


def test_systematic_search_goes_on_from_the_same_steps_once():
    """Where two orders lead to the same, from the second deviation on; runs without any are gone on from in each."""

    def played(steps):
        systematic = Systematic(2)
        attempts = systematic.attempts()
        strategy = next(attempts)
        while strategy is not None:
            try:
                strategy = attempts.send(Options([2, 2], steps(strategy)))
            except StopIteration:
                break
        return systematic.runs, systematic.known

    assert played(lambda strategy: [*strategy.values, 0, 0][:2]) == (7, 2)
    assert played(lambda strategy: [strategy.order == "fifo", *strategy.values, 0, 0][:3]) == (8, 0)


def test_replay_says_which_decisions_were_not_as_it_was_told():
    """Too large for their options, or never asked for: the run is another one than was meant."""
    replay = Replay([1, 0, 9, 0, 1])
    decided(replay, [2, 2, 3])
    assert (replay.clamped, replay.unused) == (1, 1)
    decided(replay, [2, 2])
    assert (replay.clamped, replay.unused) == (1, 0)


def test_replay_takes_what_it_is_told_and_then_what_asyncio_would():
    """A decision that is too large for its options is the last of them."""
    replay = Replay([1, 0, 9])
    assert [*decided(replay, [2, 2, 3, 4]), replay.cancel(3)] == [1, 0, 2, 0, 0]


def test_a_replay_may_cancel():
    """Nobody, or the n-th."""
    replay = Replay([0, 2, 7])
    assert [replay.cancel(3), replay.cancel(3), replay.cancel(3)] == [0, 2, 3]


def test_uniform_takes_every_option():
    """With about the same chance."""
    counts = Counter(decided(Uniform(random.Random(1)), [3] * 3000))
    assert sorted(counts) == [0, 1, 2]
    assert min(counts.values()) > 900


def test_uniform_cancels_once_at_the_most():
    """At a moment of its own."""
    strategy = Uniform(random.Random(1), length=10, cancels=1)
    assert sum(strategy.cancel(2) > 0 for _ in range(50)) == 1


def test_pct_lets_one_run_on():
    """With depth 1 the same one is always ahead."""
    strategy = Pct(random.Random(1), depth=1)
    strategy.meet([1, 2, 3])
    first = strategy.pick([1, 2, 3])
    assert [strategy.pick([1, 2, 3]) for _ in range(20)] == [first] * 20


def test_pct_changes_its_mind_depth_less_one_times():
    """Whoever runs falls behind all others then."""
    strategy = Pct(random.Random(1), length=20, depth=3)
    strategy.meet([1, 2, 3])
    picks = [strategy.pick([1, 2, 3]) for _ in range(20)]
    assert sum(a != b for a, b in pairwise(picks)) <= 2
    assert len(set(picks)) > 1


def test_pos_gives_every_step_a_chance_of_its_own():
    """Two tasks with one step and with many: the lone one comes anywhere, and not only first or last."""
    places = Counter()
    for seed in range(2000):
        strategy, steps = Pos(random.Random(seed)), {1: 1, 2: 4}
        for place in range(5):
            keys = [key for key, left in steps.items() if left]
            key = keys[strategy.pick(keys)]
            steps[key] -= 1
            if key == 1:
                places[place] += 1
                break
    assert sorted(places) == [0, 1, 2, 3, 4]
    assert 900 < places[0] < 1100


def test_the_same_seed_makes_the_same_runs():
    """Chance is the session's."""

    def runs():
        attempts = mixed(42)
        strategies = [next(attempts), *(attempts.send([3] * 30) for _ in range(10))]
        return [decided(strategy, [3] * 30) for strategy in strategies]

    assert runs() == runs()


def test_decisions_are_written_by_their_deviations():
    """And read again."""
    assert sparse([0, 2, 0, 1, 0]) == ((1, 2), (3, 1))
    assert dense(((1, 2), (3, 1))) == [0, 2, 0, 1]
    assert dense(()) == []


def test_shrinking_leaves_what_is_needed():
    """Two decisions out of forty."""
    values = [random.Random(n).randrange(3) for n in range(40)]
    values[7], values[21] = 2, 1

    def fails(candidate):
        return len(candidate) > 21 and candidate[7] == 2 and candidate[21] == 1

    assert sparse(shrink(values, fails)) == ((7, 2), (21, 1))


def test_shrinking_moves_decisions_to_the_front():
    """A failure that takes three of a kind, wherever they are."""
    values = [random.Random(n).randrange(4) for n in range(30)]
    assert shrink(values, lambda candidate: sum(map(bool, candidate)) >= 3) == [1, 1, 1]


def test_shrinking_asks_no_more_often_than_allowed():
    """A run may take long."""
    asked = []
    shrink([1] * 200, lambda candidate: asked.append(candidate), tries=10)
    assert len(asked) <= 10


def test_what_fails_without_any_deviation_shrinks_to_nothing():
    """It is asyncio's own order."""
    assert shrink([1, 2, 3], lambda _: True) == []
    assert stripped([0, 1, 0, 0]) == [0, 1]
