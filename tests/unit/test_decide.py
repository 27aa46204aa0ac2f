"""Verdicts are proven: at any time, on either side, and a failure twice."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_isolation.latency.decide import (
    ExceedanceTest,
    Gate,
    Rule,
    State,
    Step,
    least_to_pass,
    next_step,
    overdispersion,
)
from pytest_isolation.model import Budget, Outcome

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
    """Samples that took a second together outlast any burst of a neighbour."""
    gate = Gate(P95)
    for _ in range(8):
        gate.add(0.5)
    assert gate.state is State.SUSPECT


def test_a_burst_that_does_not_come_back_is_not_a_failure():
    """Over at first, not in the second run: undecided, and it says so."""
    gate = Gate(P95)
    for _ in range(40):
        gate.add(SLOW)
    assert gate.state is State.SUSPECT
    gate.confirm()
    feed(gate, [FAST] * 400)
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
    outcomes = [verdict_of(feed(Gate(P95), exceedances(0.05, 2000, seed))).outcome for seed in range(300)]
    assert outcomes.count(Outcome.FAIL) == 0
    assert outcomes.count(Outcome.PASS) <= 6


@pytest.mark.parametrize(("share", "found"), [(0.15, 299), (0.20, 300), (0.50, 300)])
def test_missed_budgets_are_found(share, found):
    """15 % over is what 120 % of the budget means for a usual latency."""
    outcomes = [verdict_of(feed(Gate(P95), exceedances(share, 2000, seed))).outcome for seed in range(300)]
    assert outcomes.count(Outcome.FAIL) >= found


@given(st.integers(0, 400), st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_evidence_is_never_on_both_sides(over, n, q):
    """Both cannot be proven at once."""
    over = min(over, n)
    log_over, log_within = ExceedanceTest(q).log_evidence(over, n)
    assert min(log_over, log_within) < 0.7


@given(st.integers(0, 200), st.integers(1, 200), st.sampled_from([0.5, 0.95, 0.99]))
def test_one_more_over_is_more_evidence_of_over(over, n, q):
    """Evidence moves with what was seen."""
    over = min(over, n - 1)
    test = ExceedanceTest(q)
    less, more = test.log_evidence(over, n), test.log_evidence(over + 1, n)
    assert more[0] > less[0]
    assert more[1] < less[1]


def test_evidence_is_a_martingale_at_the_boundary():
    """Its mean under p0 stays 1 from sample to sample (Ville's inequality rests on that)."""
    from math import exp, isclose

    for q in (0.5, 0.95, 0.99):
        test = ExceedanceTest(q)
        for over, n in ((0, 0), (1, 10), (7, 60)):
            for side in (0, 1):
                now = exp(test.log_evidence(over, n)[side])
                then = test.p0 * exp(test.log_evidence(over + 1, n + 1)[side]) + q * exp(
                    test.log_evidence(over, n + 1)[side]
                )
                assert isclose(now, then, rel_tol=1e-9)


def test_independent_exceedances_are_hardly_deflated():
    """Overdispersion of independent samples is near 1."""
    values = []
    for seed in range(50):
        samples = exceedances(0.1, 400, seed)
        blocks = [(20, sum(s > 0.01 for s in samples[i : i + 20])) for i in range(0, 400, 20)]
        values.append(overdispersion(blocks))
    assert sorted(values)[25] < 1.3


def test_bursts_count_as_few_facts():
    """Five blocks all over among fifteen clean ones are five facts, not a hundred."""
    assert overdispersion([(20, 20)] * 5 + [(20, 0)] * 15) > 10


def test_a_few_blocks_are_too_few_to_speak_of_bursts():
    """Below four there is nothing to compare."""
    assert overdispersion([(20, 20), (20, 0), (20, 0)]) == 1.0


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
    feed(gate, [FAST] * 400)
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
