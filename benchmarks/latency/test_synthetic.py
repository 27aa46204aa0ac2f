"""How often verdicts are wrong, over 20,000 trials for each cell; ``ISOLATION_TRIALS`` makes it fewer."""

import os
from concurrent.futures import ProcessPoolExecutor

import pytest
from synthetic import Cell, Tally, tally

TRIALS = int(os.environ.get("ISOLATION_TRIALS", "20000"))
QUIET = ("lognormal σ 0.3", "lognormal σ 1.0", "2 % GC pauses", "visible bursts")


def tried(cell: Cell) -> Tally:
    """All trials of a cell, on all cores."""
    parts, each = 40, max(1, TRIALS // 40)
    with ProcessPoolExecutor() as pool:
        done = list(pool.map(tally, [cell] * parts, [each] * parts, range(0, parts * each, each)))
    trials, failed, passed = (sum(column) for column in list(zip(*done, strict=True))[:3])
    return Tally(trials, failed, passed, sorted(part.median for part in done)[parts // 2])


@pytest.mark.parametrize("model", QUIET)
@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.9, 0.95])
def test_false_failures(benchmark, figure, model, ratio):
    """A budget of which at most 95 % are used."""
    done = benchmark.pedantic(tried, args=[Cell(model, ratio)], rounds=1)
    figure(f"false failures, {model}, at {ratio:.0%}", done.failed, "", most=0, details=said(done))


def test_false_failures_in_hidden_bursts(benchmark, figure):
    """No probe sees the neighbour."""
    done = benchmark.pedantic(tried, args=[Cell("hidden bursts", 0.9)], rounds=1)
    share = 100 * done.failed / done.trials
    figure("false failures, 3 % hidden bursts, at 90 %", share, "%", most=0.1, details=said(done))


@pytest.mark.parametrize(("model", "ratio"), [("lognormal σ 0.3", 1.2), ("lognormal σ 1.0", 1.5)])
def test_detection(benchmark, figure, model, ratio):
    """A budget that is missed."""
    done = benchmark.pedantic(tried, args=[Cell(model, ratio)], rounds=1)
    figure(f"found, {model}, at {ratio:.0%}", 100 * done.failed / done.trials, "%", least=99.9, details=said(done))


def said(done: Tally) -> str:
    """All of it."""
    return f"{done.failed} fail, {done.passed} pass of {done.trials}; median {done.median} samples"
