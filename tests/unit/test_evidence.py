"""Evidence is a martingale at the boundary, and bursts count as few facts."""

import random
from math import log

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx  # noqa: PT013

from pytest_isolation.latency.evidence import Dispersion, ExceedanceTest


def dispersion(blocks) -> float:
    """The factor after these blocks."""
    one = Dispersion()
    for n, over in blocks:
        one.add(n, over)
    return one.factor


def exceeds(share: float, n: int, seed: int):
    """Which of so many independent samples exceed."""
    rng = random.Random(seed)
    return [rng.random() < share for _ in range(n)]


@given(st.integers(0, 400), st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_evidence_is_never_on_both_sides(over, n, q):
    """Both cannot be proven at once."""
    over = min(over, n)
    log_over, log_within = ExceedanceTest(q).log_evidence(over, n)
    assert min(log_over, log_within) < 0.7


@given(st.floats(0, 400), st.floats(1, 400), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([1e-4, 1e-2]))
def test_whether_it_is_enough_is_what_the_evidence_says(over, n, q, alpha):
    """The short cuts take nothing away, and add nothing."""
    over, test = min(over, n), ExceedanceTest(q)
    shown = test.shows_over(over, n, -log(alpha)), test.shows_within(over, n, -log(alpha))
    assert shown == tuple(evidence >= -log(alpha) for evidence in test.log_evidence(over, n))


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
        samples = exceeds(0.1, 400, seed)
        blocks = [(20, sum(samples[i : i + 20])) for i in range(0, 400, 20)]
        values.append(dispersion(blocks))
    assert sorted(values)[25] < 1.3


def test_bursts_count_as_few_facts():
    """Five blocks all over among fifteen clean ones are five facts, not a hundred."""
    assert dispersion([(20, 20)] * 5 + [(20, 0)] * 15) > 10


def test_one_block_is_too_little_to_speak_of_bursts():
    """There is nothing to compare it with; of two that differ much, one may be a burst."""
    assert dispersion([(20, 20)]) == 1.0
    assert dispersion([(20, 20), (20, 20)]) == 1.0
    assert dispersion([(20, 20), (20, 0)]) > 10


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=4, max_size=40))
def test_dispersion_is_pearsons_statistic(shares):
    """Kept as sums, and the same as by its definition."""
    blocks = [(n, round(n * share)) for n, share in shares]

    def pearson(parts):
        if len(parts) < 2:
            return 1.0
        n_all, k_all = (sum(column) for column in zip(*parts, strict=True))
        p, smooth = k_all / n_all, (k_all + 0.5) / (n_all + 1)
        return sum((k - n * p) ** 2 / (n * smooth * (1 - smooth)) for n, k in parts) / (len(parts) - 1)

    triples = [
        (sum(n for n, _ in blocks[i : i + 3]), sum(k for _, k in blocks[i : i + 3]))
        for i in range(0, len(blocks) - 2, 3)
    ]
    assert dispersion(blocks) == approx(max(1.0, pearson(blocks), pearson(triples)), rel=1e-6, abs=1e-6)
