"""What a look at the counts costs, and the one that decides; in CPU time, because neighbours are no part of it."""

import random
from statistics import median
from time import thread_time

import pytest

from pytest_isolation.latency.decide import Gate, State
from pytest_isolation.verdicts import Budget

GATES, CAP = 200, 2000


class Timed(Gate):
    """Notes what each look takes, reading the clock included, and whether it decides."""

    __slots__ = ("looks",)

    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self.looks: list[tuple[float, bool]] = []

    def _look(self, test):
        begun = thread_time()
        super()._look(test)
        self.looks.append((thread_time() - begun, self.state is not State.OPEN))


def looks(share: float, machine: bool) -> list[tuple[float, bool]]:
    """All looks of many gates of which this share is over, half as many only by what the machine added."""
    rng, done = random.Random(1), []
    for _ in range(GATES):
        one = Timed(Budget(0.95, 1e-3))
        while one.state is State.OPEN and one.n < CAP:
            place = rng.random()
            added = 2e-4 if machine and share <= place < 1.5 * share else 0.0
            one.add(1.1e-3 if place < share or added else 5e-4, added)
        done += one.looks
    return done


@pytest.mark.parametrize("machine", [False, True], ids=["", "with machine time"])
@pytest.mark.parametrize("share", [0.01, 0.04, 0.1])
def test_one_decision(benchmark, figure, share, machine):
    """Clearly within, too close to tell, clearly over."""
    done = benchmark.pedantic(looks, args=[share, machine], rounds=1)
    last = [seconds for seconds, decides in done if decides]
    figure(
        f"one decision, {share:.0%} of the samples over{', and machine time' * machine}",
        median(seconds for seconds, _ in done) * 1e6,
        "µs",
        most=20,
        details=f"{len(done)} looks; the last of each gate, out of cold caches, {median(last) * 1e6:.1f} µs"
        if last
        else f"{len(done)} looks",
    )
