"""The table of all budgets shows what was judged, whatever quantile that is."""

import pytest

from pytest_isolation.latency.decide import Gate
from pytest_isolation.model import Result
from pytest_isolation.reports.budgets import budget_table
from pytest_isolation.verdicts import Budget


def line(quantile):
    """The row of one budget, after ten thousand samples of one to two milliseconds."""
    samples = [1e-3 + 1e-7 * number for number in range(10_000)]
    verdict = Gate(Budget(quantile, 0.1)).verdict(samples, 1.0)
    [_, (_, row)] = budget_table([Result("test_it.py::test_it", verdicts=(verdict,))])
    return row


@pytest.mark.parametrize(
    ("quantile", "said"),
    [
        (0.5, "p50 = 1.5 ms (1.49 … 1.51)"),
        (0.9, "p90 = 1.9 ms (1.89 … 1.91)"),
        (0.95, "p95 = 1.95 ms (1.94 … 1.96)"),
        (0.999, "p99.9 = 2 ms (2 … 2)"),
        (1.0, "max = 2 ms  "),
    ],
)
def test_the_judged_quantile_has_its_interval(quantile, said):
    """Of the maximum nothing but itself is known."""
    assert said in line(quantile)
