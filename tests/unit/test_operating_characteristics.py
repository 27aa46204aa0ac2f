"""How often verdicts are wrong, and how soon they are right: on samples whose true p95 is known.

``make bench-latency`` does the same with 20,000 trials each.
"""

import pytest
from synthetic import Cell, tally

QUIET = ("lognormal σ 0.3", "lognormal σ 1.0", "2 % GC pauses", "visible bursts")


@pytest.mark.parametrize("model", [*QUIET, "hidden bursts", "shared core"])
@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_a_kept_budget_never_fails(model, ratio):
    """Not with a heavy tail, not with pauses, not in bursts."""
    assert tally(Cell(model, ratio), 60).failed == 0


@pytest.mark.parametrize("model", [*QUIET, "shared core"])
def test_a_budget_that_is_nearly_used_up_never_fails(model):
    """At 95 %; most of them stay undecided, which takes all 2,000 samples."""
    assert tally(Cell(model, 0.95), 12).failed == 0


@pytest.mark.parametrize(
    ("model", "ratio"),
    [("lognormal σ 0.3", 1.2), ("lognormal σ 1.0", 1.5), ("visible bursts", 1.5), ("shared core", 1.5)],
)
def test_a_missed_budget_is_found(model, ratio):
    """Every time."""
    assert tally(Cell(model, ratio), 60).failed == 60


def test_clear_cases_are_decided_soon():
    """120 samples for a budget with room, 80 for one that is far out, its confirmation included."""
    assert tally(Cell("lognormal σ 0.3", 0.5), 60).median <= 120
    assert tally(Cell("lognormal σ 0.3", 2.0), 60).median <= 80
