"""Verdicts on this machine, beside a neighbour of none to three busy processes that changes all the time."""

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from time import thread_time

import pytest

from pytest_isolation.latency.decide import Gate
from pytest_isolation.latency.noise import MachineClock
from pytest_isolation.latency.sampler import Limits, sample_sync
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.model import Budget, Outcome

DECISIONS = int(os.environ.get("ISOLATION_DECISIONS", "100"))
SIGMA = 0.3
P95 = 2.71828 ** (1.6449 * SIGMA)


@pytest.fixture(scope="module")
def clock():
    return MachineClock()


@pytest.fixture(scope="module", autouse=True)
def neighbours():
    """None to three hogs, for a tenth of a second to three seconds at a time."""
    stop, rng = threading.Event(), random.Random(11)

    def come_and_go():
        while not stop.is_set():
            hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(rng.randrange(4))]
            stop.wait(rng.uniform(0.1, 3))
            for hog in hogs:
                hog.kill()
                hog.wait()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    yield
    stop.set()
    thread.join()


def work(amount: int) -> None:
    """So many units of it."""
    table = {}
    for number in range(amount):
        table[number & 63] = (number, str(number))


class Unit:
    """The CPU time of one unit of work at full speed, by its best quarter; neither clock nor verdict is asked."""

    def __init__(self) -> None:
        self._costs = []
        for _ in range(40):
            self.measure()
            time.sleep(0.02)

    def measure(self) -> float:
        for _ in range(20):
            begun = thread_time()
            work(2000)
            self._costs.append((thread_time() - begun) / 2000)
        return sorted(self._costs)[len(self._costs) // 4]


@pytest.fixture(scope="module")
def unit():
    return Unit()


def decisions(ratio: float, count: int, clock: MachineClock, unit: Unit) -> list[tuple[Outcome, int, bool]]:
    """Judge an operation of half a millisecond, of which p95 is this share of the budget."""
    done, rng = [], random.Random(round(ratio * 100))
    for _ in range(count):
        typical = 0.0005 / unit.measure()
        ledger = Ledger([Budget(0.95, 0.0005 * P95 / ratio)], clock=clock)
        sample_sync(
            lambda typical=typical: work(round(typical * rng.lognormvariate(0, SIGMA))), ledger, Limits(seconds=10)
        )
        [verdict] = ledger.verdicts(0.0)
        done.append((verdict.outcome, verdict.samples, verdict.machine.excluded))
    return done


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.9])
def test_kept(benchmark, figure, clock, unit, ratio):
    """None of them may fail."""
    done = benchmark.pedantic(decisions, args=[ratio, DECISIONS, clock, unit], rounds=1)
    failed = sum(outcome is Outcome.FAIL for outcome, _, _ in done)
    excluded = sum(excluded for _, _, excluded in done)
    passed = sum(outcome is Outcome.PASS for outcome, _, _ in done)
    figure(
        f"false failures live, at {ratio:.0%} of the budget",
        failed,
        "",
        most=0,
        details=f"of {len(done)}: {passed} pass, {excluded} of them with machine time excluded",
    )
    if ratio == 0.5:
        figure("median samples at 50 %", statistics.median(n for _, n, _ in done), "", most=120)


def test_missed(benchmark, figure, clock, unit):
    """All of them must."""
    done = benchmark.pedantic(decisions, args=[1.5, DECISIONS, clock, unit], rounds=1)
    failed = sum(outcome is Outcome.FAIL for outcome, _, _ in done)
    figure("found live, at 150 % of the budget", 100 * failed / len(done), "%", least=100, details=f"of {len(done)}")
    figure("median samples at 150 %", statistics.median(n for _, n, _ in done), "", most=80)


def test_cost_of_a_decision(benchmark, figure):
    """One look, after a thousand samples in blocks that differ."""
    rng, gate = random.Random(1), Gate(Budget(0.95, 1.0))
    for _ in range(999):
        gate.add(1.1 if rng.random() < 0.05 else 0.5)

    def look():
        tally = gate._tally
        tally.measured.end_block(20)
        tally.own.end_block(20)
        gate._look(gate._test)

    benchmark(look)
    figure("one decision", benchmark.stats.stats.median * 1e6, "µs", most=20)
