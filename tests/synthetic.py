"""Latencies whose true p95 is known, with and without noise: what the verdicts are tried on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from math import exp
from typing import NamedTuple

from pytest_isolation.latency.decide import Gate, State
from pytest_isolation.verdicts import Budget, Outcome

CAP = 2000
# What models draw is about one: a millisecond.
_UNIT_S = 1e-3

Draw = Callable[[random.Random], Iterator[tuple[float, float]]]
"""Endless samples: what is measured, and what of it the machine added and owns up to."""


def lognormal(sigma: float) -> Draw:
    """The usual shape: 0.3 is an ordinary operation, 1.0 one with a heavy tail."""

    def draw(rng: random.Random) -> Iterator[tuple[float, float]]:
        while True:
            yield exp(rng.gauss(0, sigma)), 0.0

    return draw


def with_pauses(share: float) -> Draw:
    """A garbage collection in some of the calls: it is the operation's own."""

    def draw(rng: random.Random) -> Iterator[tuple[float, float]]:
        while True:
            pause = 3 + 3 * rng.random() if rng.random() < share else 0.0
            yield exp(rng.gauss(0, 0.2)) + pause, 0.0

    return draw


def in_bursts(duty: float, length: float, seen: float) -> Draw:
    """A neighbour who comes and goes, and makes the operation three times as slow.

    Args:
        duty: the share of samples under way while it is there.
        length: how many samples it stays, on the average.
        seen: the share of what it adds that the machine's clock owns up to.
    """

    def draw(rng: random.Random) -> Iterator[tuple[float, float]]:
        here = rng.random() < duty
        comes, goes = duty / (1 - duty) / length, 1 / length
        while True:
            here = rng.random() >= goes if here else rng.random() < comes
            own = exp(rng.gauss(0, 0.3))
            added = own * 2 * rng.expovariate(1) if here else 0.0
            yield own + added, added * seen

    return draw


def on_a_shared_core(rng: random.Random) -> Iterator[tuple[float, float]]:
    """As it was recorded beside none to three busy processes: they take their slices of the core in turn with us.

    With each of them there the core is a little slower too, and of what that costs the clock owns up to nine tenths.
    """
    neighbours, stay, left = 0, 0.0, 3.0
    while True:
        if stay <= 0:
            neighbours, stay = rng.randrange(4), rng.uniform(100, 3000)
        own = exp(rng.gauss(0, 0.3))
        slowed = own * 0.15 * neighbours
        left -= own + slowed
        waited = 0.0
        if left < 0:  # our slice is over
            waited, left = 3.0 * neighbours * rng.uniform(0.7, 1.3), 3.0
        stay -= own + slowed + waited
        yield own + slowed + waited, waited + 0.9 * slowed


MODELS: dict[str, tuple[Draw, Draw]] = {
    # Each with the operation alone, whose p95 is the true one.
    "lognormal σ 0.3": (lognormal(0.3), lognormal(0.3)),
    "lognormal σ 1.0": (lognormal(1.0), lognormal(1.0)),
    "2 % GC pauses": (with_pauses(0.02), with_pauses(0.02)),
    "visible bursts": (in_bursts(0.10, 60, 0.95), lognormal(0.3)),
    "shared core": (on_a_shared_core, lognormal(0.3)),
    "hidden bursts": (in_bursts(0.03, 30, 0.0), lognormal(0.3)),
}


@cache
def true_p95(model: str) -> float:
    """Of the operation alone, from so many draws that it is true to half a percent."""
    samples = MODELS[model][1](random.Random(1))
    return sorted(next(samples)[0] for _ in range(200_000))[189_999]


class Decision(NamedTuple):
    """What was decided, after how many samples."""

    outcome: Outcome
    samples: int


def decide(model: str, ratio: float, seed: int) -> Decision:
    """Judge a budget of which the true p95 is this share.

    Args:
        model: one of ``MODELS``.
        ratio: the true p95 by the budget: 0.9 is kept, 1.2 is missed.
        seed: of the samples.
    """
    gate, cap = Gate(Budget(0.95, _UNIT_S * true_p95(model) / ratio)), CAP
    samples = MODELS[model][0](random.Random(seed))
    while not gate.settled and gate.n < cap:
        measured, added = next(samples)
        gate.add(measured * _UNIT_S, added * _UNIT_S)
        if gate.state is State.SUSPECT:
            samples = MODELS[model][0](random.Random(-seed - 1))  # after the pause the neighbour is another one
            gate.confirm()
            cap = 2 * CAP
    return Decision(gate.verdict((), 0.0).outcome, gate.n)


class Tally(NamedTuple):
    """How so many decisions came out."""

    trials: int
    failed: int
    passed: int
    median: int


class Cell(NamedTuple):
    """A model and how much of its budget it uses."""

    model: str
    ratio: float


def tally(cell: Cell, trials: int, first: int = 0) -> Tally:
    """Decide again and again, with seeds from ``first`` on."""
    decisions = [decide(*cell, seed) for seed in range(first, first + trials)]
    outcomes = [decision.outcome for decision in decisions]
    median = sorted(decision.samples for decision in decisions)[trials // 2]
    return Tally(trials, outcomes.count(Outcome.FAIL), outcomes.count(Outcome.PASS), median)
