"""Verdicts on this machine, beside a neighbour of none to three busy processes that changes all the time."""

import os
import random
import statistics

import pytest
from loads import Unit, work

from pytest_isolation.latency.noise import MachineClock
from pytest_isolation.latency.sampler import Limits, sample_sync
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.verdicts import Budget, Outcome

pytestmark = pytest.mark.usefixtures("neighbours")
DECISIONS = int(os.environ.get("ISOLATION_DECISIONS", "100"))
SIGMA = 0.3
P95 = 2.71828 ** (1.6449 * SIGMA)


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
