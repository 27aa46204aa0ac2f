"""Counts become verdicts: what the machine added fails nothing, and who came all at once is told from the rest."""

import pytest

from pytest_isolation.load.outcome import Word, conclude
from pytest_isolation.load.plan import Operation, Phase, Plan
from pytest_isolation.load.tally import Leaks, PhaseTally

PLAN = Plan(seed=1, users=10, duration_s=60.0, target_s=0.05)


def judged(*attempts, knows_machine=True):
    """What is said of the chats of a burst, each with what it took, what of that the machine added, and at once or not."""
    tally = PhaseTally(Phase("burst", 10.0, 20))
    for seconds, machine_s, at_once in attempts:
        tally.operations[Operation.CHAT].take(seconds, None, machine_s, at_once)
    outcome = conclude("it", PLAN, [tally], Leaks(), None, knows_machine=knows_machine)
    [line] = [line for line in outcome.lines if line.operation == "chat"]
    return line, outcome.complaints


def test_what_is_over_without_the_machines_part_fails():
    """By its own time."""
    line, _ = judged(*[(0.1, 0.01, False)] * 400)
    assert (line.verdict, line.machine) == (Word.FAIL, pytest.approx(0.1))


def test_what_is_over_only_with_it_passes_and_says_so():
    """A neighbour is no regression."""
    line, complaints = judged(*[(0.1, 0.08, False)] * 400)
    assert line.verdict == "pass, machine time excluded"
    assert not any("p95" in said for said in complaints)


def test_where_nobody_knows_the_machines_part_the_line_says_so():
    """Of a target in another process."""
    line, _ = judged(*[(0.01, 0.0, False)] * 400, knows_machine=False)
    assert (line.verdict, line.machine) == (Word.PASS, None)


def test_who_came_at_the_same_moment_is_told_from_the_rest():
    """They waited for one another; that is why the phase is over its target."""
    line, complaints = judged(*[(0.2, 0.0, True)] * 40, *[(0.01, 0.0, False)] * 360)
    assert (line.verdict, line.at_once, line.apart_s) == (Word.FAIL, 40, 0.01)
    assert any(
        "p95 over target; 40 of 400 attempts (10 %) came at the same moment and waited for one another, "
        "and of the others p95 = 10 ms" in said
        for said in complaints
    )
