"""Verdicts are proven: at any time, on either side, and a failure twice."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_isolation.latency.decide import Gate, Rule, State, Step, least_to_pass, next_step
from pytest_isolation.verdicts import Budget, Outcome

P95 = Budget(0.95, 0.010)
FAST, SLOW = 0.001, 0.011


def feed(gate: Gate, samples) -> Gate:
    """Feed samples, and confirm whenever the gate asks for it."""
    for seconds in samples:
        gate.add(seconds)
        if gate.state is State.SUSPECT:
            gate.confirm()
        if gate.settled:
            break
    return gate


def exceedances(share: float, n: int, seed: int):
    """Independent samples, this share of them over the budget."""
    rng = random.Random(seed)
    return [SLOW if rng.random() < share else FAST for _ in range(n)]


def verdict_of(gate: Gate):
    return gate.verdict([FAST] * gate.n, 1.0)


def test_a_clean_run_passes_after_120_samples():
    """That is the least that proves p95 at one in a hundred."""
    gate = feed(Gate(P95), [FAST] * 2000)
    assert (gate.state, gate.n) == (State.PASSED, 120)
    assert verdict_of(gate).outcome is Outcome.PASS


@pytest.mark.parametrize(("q", "least"), [(0.5, 40), (0.9, 80), (0.95, 120), (0.99, 620), (1, 100)])
def test_least_to_pass_is_what_a_clean_run_takes(q, least):
    """What the usage error and the reason name is what happens."""
    assert least_to_pass(q) == least
    gate = Gate(Budget(q, 0.010))
    for count in range(1, 3000):
        gate.add(FAST)
        if gate.settled:
            assert count == least
            return
    pytest.fail("a clean run never passed")


def test_a_run_that_is_always_over_fails_after_a_confirmation():
    """Forty are proof enough, forty more confirm it."""
    gate = feed(Gate(P95), [SLOW] * 2000)
    assert (gate.state, gate.n, gate.over, gate.confirmed) == (State.FAILED, 80, 80, 40)
    assert verdict_of(gate).outcome is Outcome.FAIL


def test_slow_samples_need_not_be_forty():
    """Samples that took half a second together outlast most bursts of a neighbour."""
    gate = Gate(P95)
    for _ in range(8):
        gate.add(0.5)
    assert gate.state is State.SUSPECT


def feed_with_machine(gate: Gate, seconds: float, machine_s: float, n: int = 2000) -> Gate:
    """Feed equal samples with an equal part of machine time."""
    for _ in range(n):
        gate.add(seconds, machine_s)
        if gate.state is State.SUSPECT:
            gate.confirm()
        if gate.settled:
            break
    return gate


def test_what_the_machine_added_never_fails_a_budget():
    """Every sample is over as it was measured, and none without machine time: kept, and said so."""
    gate = feed_with_machine(Gate(P95), 0.030, 0.025)
    verdict = gate.verdict([0.030] * gate.n, 9.0, [0.025] * gate.n)
    assert gate.state is State.PASSED
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "within, machine time excluded")
    assert (verdict.over, verdict.machine.over, verdict.machine.excluded) == (gate.n, 0, True)
    assert verdict.machine.estimate.value_s == pytest.approx(0.005)


def test_a_budget_that_is_missed_without_machine_time_too_fails():
    """The truth lies between the two numbers, and both are over."""
    assert feed_with_machine(Gate(P95), 0.030, 0.015).state is State.FAILED


def test_a_budget_that_is_kept_as_measured_needs_no_excuse():
    """Even the upper number is within."""
    gate = feed_with_machine(Gate(P95), 0.009, 0.001)
    verdict = gate.verdict([0.009] * gate.n, 1.0, [0.001] * gate.n)
    assert (verdict.reason, verdict.machine.excluded) == ("proven within", False)


def test_doubt_that_the_machine_caused_is_called_so():
    """6 % over as measured, 3 % without machine time: neither is proven."""
    gate = Gate(P95)
    for index in range(400):
        gate.add(SLOW if index % 16 == 0 else FAST, 0.005 if index % 32 == 0 else 0.0)
    assert gate.state is State.OPEN
    assert gate.verdict([FAST] * 400, 1.0).reason == "the machine was too busy to tell after 400 samples"


def test_without_a_clock_a_verdict_says_nothing_of_the_machine():
    """None is not nothing."""
    assert verdict_of(feed(Gate(P95), [FAST] * 200)).machine is None


def test_a_maximum_is_judged_without_machine_time():
    """The machine alone may exceed any maximum, and that is shown."""
    gate = Gate(Budget(1.0, 0.010))
    gate.add(0.030, 0.025)
    feed(gate, [FAST] * 200)
    verdict = gate.verdict([0.030, *[FAST] * 99], 1.0, [0.025, *[0.0] * 99])
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "exceeded only with machine time, in 100")
    assert verdict.machine.excluded


@pytest.mark.parametrize(("samples", "hopeless"), [([], False), ([SLOW] * 3, True), ([SLOW, SLOW, FAST], False)])
def test_a_run_is_hopeless_while_every_sample_is_over(samples, hopeless):
    """The sampler goes on for longer then: a few more prove it."""
    gate = Gate(P95)
    for seconds in samples:
        gate.add(seconds)
    assert gate.is_hopeless is hopeless


def test_a_burst_that_does_not_come_back_is_not_a_failure():
    """Over at first, not in the second run: undecided, and it says so."""
    gate = Gate(P95)
    for _ in range(40):
        gate.add(SLOW)
    assert gate.state is State.SUSPECT
    gate.confirm()
    feed(gate, [FAST] * 1000)
    assert gate.state is State.UNCONFIRMED
    assert verdict_of(gate).outcome is Outcome.UNDECIDED
    assert "not again" in verdict_of(gate).reason


def test_samples_that_arrive_while_a_confirmation_is_due_are_counted_but_not_judged():
    """Paced arrivals are still in flight then."""
    gate = Gate(P95)
    for _ in range(45):
        gate.add(SLOW)
    assert (gate.state, gate.n) == (State.SUSPECT, 45)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.02])
def test_kept_budgets_never_fail(share):
    """300 runs at each share, fixed seeds: none fails, and nearly all are proven within."""
    outcomes = [verdict_of(feed(Gate(P95), exceedances(share, 2000, seed))).outcome for seed in range(300)]
    assert Outcome.FAIL not in outcomes
    assert outcomes.count(Outcome.PASS) >= 295


def test_at_the_boundary_nothing_is_claimed():
    """Exactly five per cent over: at most one in a hundred is called within, none is called over."""
    outcomes = [verdict_of(feed(Gate(P95), exceedances(0.05, 2000, seed))).outcome for seed in range(100)]
    assert outcomes.count(Outcome.FAIL) == 0
    assert outcomes.count(Outcome.PASS) <= 3


@pytest.mark.parametrize(("share", "found"), [(0.15, 299), (0.20, 300), (0.50, 300)])
def test_missed_budgets_are_found(share, found):
    """15 % over is what 120 % of the budget means for a usual latency."""
    outcomes = [verdict_of(feed(Gate(P95), exceedances(share, 2000, seed))).outcome for seed in range(300)]
    assert outcomes.count(Outcome.FAIL) >= found


def test_max_passes_when_a_hundred_stay_below():
    """A maximum has no interval; what can be said is that none exceeded it."""
    gate = feed(Gate(Budget(1.0, 0.010)), [FAST] * 100)
    assert gate.state is State.CONTENT
    assert verdict_of(gate).reason == "never exceeded in 100"


def test_max_fails_on_two_exceedances_in_separate_runs():
    """One may be the machine's doing."""
    gate = Gate(Budget(1.0, 0.010))
    gate.add(SLOW)
    assert gate.state is State.SUSPECT
    gate.confirm()
    gate.add(FAST)
    assert gate.state is State.CONFIRMING
    gate.add(SLOW)
    assert gate.state is State.FAILED


def test_max_is_undecided_when_the_exceedance_does_not_come_back():
    """It is not counted as kept either."""
    gate = Gate(Budget(1.0, 0.010))
    gate.add(SLOW)
    gate.confirm()
    feed(gate, [FAST] * 1000)
    assert gate.state is State.UNCONFIRMED


def test_max_that_was_content_becomes_suspect_again():
    """Other budgets of the test may go on sampling."""
    gate = feed(Gate(Budget(1.0, 0.010)), [FAST] * 100)
    gate.add(SLOW)
    assert gate.state is State.SUSPECT


@pytest.mark.parametrize(
    ("states", "step"),
    [
        ([State.OPEN, State.PASSED], Step.SAMPLE),
        ([State.CONFIRMING, State.PASSED], Step.SAMPLE),
        ([State.SUSPECT, State.OPEN], Step.CONFIRM),
        ([State.FAILED, State.OPEN, State.SUSPECT], Step.STOP),
        ([State.PASSED, State.CONTENT, State.UNCONFIRMED], Step.STOP),
        ([], Step.STOP),
    ],
)
def test_gates_judged_together_agree_on_the_next_step(states, step):
    """One proven failure settles them all; nobody stops while another needs samples."""
    gates = [Gate(P95) for _ in states]
    for gate, state in zip(gates, states, strict=True):
        gate.state = state
    assert next_step(gates) is step


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([FAST] * 30, "too few samples: 30, and p95 needs 120 or more"),
        (exceedances(0.05, 1000, 4), "too close to tell after 1000 samples"),
        ([SLOW] * 40, "over at first; there was no time to confirm it in a second run"),
    ],
)
def test_an_undecided_verdict_says_why(samples, reason):
    """Undecided without a reason would help nobody."""
    gate = Gate(P95)
    for seconds in samples:
        gate.add(seconds)
    verdict = gate.verdict(samples, 1.0)
    assert (verdict.outcome, verdict.reason) == (Outcome.UNDECIDED, reason)


@settings(max_examples=50)
@given(st.lists(st.floats(0.0001, 0.05), max_size=300))
def test_a_verdict_counts_what_it_was_given(samples):
    """n and k are those of the samples, whatever the state."""
    gate = Gate(P95, Rule())
    for seconds in samples:
        gate.add(seconds)
    assert gate.n == len(samples)
    assert gate.over == sum(seconds > 0.010 for seconds in samples)


def test_a_budget_that_was_proven_kept_is_still_watched():
    """Another budget of the test goes on sampling, and the backend gets slower."""
    gate = feed(Gate(P95), [FAST] * 120)
    assert gate.state is State.PASSED
    for _ in range(60):
        gate.add(SLOW)
    assert gate.state is State.SUSPECT


def test_a_verdict_never_contradicts_the_figures_beside_it():
    """Proven within at first, and then 6 % over where 5 % are allowed: that is no pass."""
    gate = feed(Gate(P95), [FAST] * 120)
    for index in range(100):
        gate.add(SLOW if index % 7 == 0 else FAST)
    assert gate.state is State.PASSED
    verdict = gate.verdict([FAST] * gate.n, 1.0)
    assert verdict.over / verdict.samples > 0.05
    assert (verdict.outcome, "over since" in verdict.reason) == (Outcome.UNDECIDED, True)


def passes(share: float, burst: int, runs: int = 200) -> int:
    """How many of so many runs pass, where slow samples come in bursts of this mean length."""
    rng, passed = random.Random(1), 0
    for _ in range(runs):
        gate, slow = Gate(P95), rng.random() < share
        for _ in range(2000):
            slow = rng.random() > 1 / burst if slow else rng.random() < share / (1 - share) / burst
            gate.add(SLOW if slow else FAST)
            if gate.state is not State.OPEN:
                break
        passed += gate.state is State.PASSED
    return passed


def test_short_bursts_seldom_make_a_missed_budget_pass():
    """Twice as many over as allowed, in bursts of five; each counts as few facts on either side."""
    assert passes(share=0.10, burst=5) <= 30
    assert passes(share=0.10, burst=1) == 0


def test_the_maximum_is_shown_where_it_is_judged():
    """What it was says more than that it was over."""
    gate = feed(Gate(Budget(1.0, 0.010)), [FAST] * 5 + [0.5] + [FAST] * 5 + [0.4])
    verdict = gate.verdict([FAST, 0.5, 0.4], 1.0)
    assert [estimate.value_s for estimate in verdict.estimates if estimate.quantile == 1] == [0.5]
