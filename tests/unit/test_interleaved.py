"""Two versions in two processes are compared by batches in turn, and whoever is slower must be so again."""

from time import sleep

import pytest

from pytest_isolation.latency import interleaved
from pytest_isolation.latency.interleaved import Interleaved
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.verdicts import Outcome

BODY_S = 0.0005


class Old:
    """An older version that takes as long as it is told, batch by batch."""

    name = "main"

    def __init__(self, seconds):
        self.seconds = seconds

    def begin(self, nodeid):
        pass

    def measure(self, batch):
        return {"": [next(self.seconds)] * batch.runs}

    def end(self):
        pass


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(interleaved, "_PAUSE_S", 0.0)


def compared(seconds):
    """The one comparison of a body with an older one that took so long."""
    one = Interleaved(Old(seconds), Ledger(()), [None], 30.0)
    one.compare_sync("test_it.py::test_it", lambda: sleep(BODY_S))
    [comparison] = one.comparisons
    return comparison


def test_what_is_slower_all_the_time_is_slower():
    """By the pairs after the pause."""
    comparison = compared(iter([BODY_S / 100] * 1000))
    assert comparison.outcome is Outcome.FAIL
    assert comparison.slower == comparison.pairs <= 40


def test_what_was_slower_for_a_while_is_not():
    """As if the other process had a core for itself, and then has none."""
    comparison = compared(iter([BODY_S / 100] * 26 + [BODY_S * 100] * 1000))
    assert comparison.outcome is Outcome.PASS
    assert comparison.slower < comparison.pairs
