"""From samples to a verdict: is the q-quantile of the latency within its budget?

``p95 ≤ B`` is exactly ``P(latency > B) ≤ 5 %``, so two counters decide: n samples, k of them over B. The evidence
on either side is a test martingale, the likelihood ratio of a truncated Beta mixture against the boundary p0 = 1 - q
(Robbins 1970; Ramdas et al., *Game-theoretic statistics and safe anytime-valid inference*, 2023). By Ville's
inequality it reaches 1/alpha with probability at most alpha *at any time*: batches, caps and "a few more samples"
cost nothing. That holds for independent samples. Those that are not are met by two heuristics: samples count as fewer
by the overdispersion of the exceedances, and a failure must be confirmed by a second run after a pause. Of a burst
that outlasts the sampling, or falls between two, no statistic can know.

Nothing here reads a clock or runs a body; ``sampler`` does, and asks ``Gate.state`` what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import lgamma, log, log1p

from pytest_isolation.latency.quantile import estimates, log_betainc
from pytest_isolation.model import Budget, Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Rule:
    """What it takes to call a budget kept or missed.

    Attributes:
        alpha_over: chance of calling a kept budget missed, before the confirmation.
        alpha_within: chance of calling a missed budget kept.
        alpha_confirm: the same as ``alpha_over`` for the confirming run.
        block: samples between two looks, and the unit in which bursts are recognised.
        look_s: a look is taken earlier once the samples since the last one took this long.
        least: no decision on fewer samples …
        least_s: … unless they took this long together, longer than any burst of a neighbour.
        least_max: how many samples must stay below a ``max`` before it counts as kept.
        least_confirm: a confirming run may take this many samples, or as many as the first.
    """

    alpha_over: float = 1e-4
    alpha_within: float = 1e-2
    alpha_confirm: float = 1e-2
    block: int = 20
    look_s: float = 0.25
    least: int = 40
    least_s: float = 1.0
    least_max: int = 100
    least_confirm: int = 400


class State(Enum):
    """What a gate wants next."""

    OPEN = "more samples"
    SUSPECT = "a pause, then a confirming run"
    CONFIRMING = "more samples of the confirming run"
    CONTENT = "nothing, but a later sample may change that"
    PASSED = "nothing: proven within, but later samples are still watched"
    FAILED = "nothing: proven over, twice"
    UNCONFIRMED = "nothing: over at first, not again"


class ExceedanceTest:
    """Two one-sided mixture martingales for "a share of at most 1 - q exceeds the budget".

    Args:
        q: the quantile, 0 < q < 1. The mixture is Beta with mean 1 - q and the weight of 20 pseudo-samples, more
            for quantiles beyond p95, truncated to its side of the boundary.
    """

    __slots__ = ("_a", "_b", "_log_mass_above", "_log_mass_below", "_log_norm", "_log_p", "_log_q", "p0")

    def __init__(self, q: float) -> None:
        strength = max(20.0, 1 / (1 - q))
        self.p0 = 1 - q
        self._a, self._b = self.p0 * strength, q * strength
        self._log_p, self._log_q = log(self.p0), log1p(-self.p0)
        self._log_norm = lgamma(self._a) + lgamma(self._b) - lgamma(self._a + self._b)
        self._log_mass_above = log_betainc(self._b, self._a, 1 - self.p0)
        self._log_mass_below = log_betainc(self._a, self._b, self.p0)

    def log_evidence(self, over: float, n: float) -> tuple[float, float]:
        """Evidence that the quantile is over, and that it is within, as natural logarithms.

        Args:
            over: how many samples exceeded the budget; a fraction after deflation.
            n: how many there were.
        """
        a, b = self._a + over, self._b + n - over
        ratio = lgamma(a) + lgamma(b) - lgamma(a + b) - self._log_norm - over * self._log_p - (n - over) * self._log_q
        return (
            ratio + log_betainc(b, a, 1 - self.p0) - self._log_mass_above,
            ratio + log_betainc(a, b, self.p0) - self._log_mass_below,
        )


@lru_cache
def least_to_pass(q: float, rule: Rule = Rule()) -> int:
    """The fewest samples that can prove a budget on the q-quantile kept: when none of them is over."""
    if q == 1:
        return rule.least_max
    test, n = ExceedanceTest(q), rule.least
    while test.log_evidence(0, n)[1] < -log(rule.alpha_within):
        n += rule.block
    return n


def overdispersion(blocks: Sequence[tuple[int, int]]) -> float:
    """How much more the exceedances vary from block to block than independent samples would, at least 1.

    A burst of slow samples is one fact, not twenty: Pearson's statistic over single blocks and over triples of
    them, the larger of the two.

    Args:
        blocks: (samples, exceedances) of consecutive stretches.
    """
    worst = 1.0
    for width in (1, 3):
        merged = [
            (sum(n for n, _ in part), sum(k for _, k in part))
            for part in (blocks[i : i + width] for i in range(0, len(blocks) - width + 1, width))
        ]
        if len(merged) < 4:
            continue
        n_all, k_all = sum(n for n, _ in merged), sum(k for _, k in merged)
        p, smooth = k_all / n_all, (k_all + 0.5) / (n_all + 1)
        pearson = sum((k - n * p) ** 2 / (n * smooth * (1 - smooth)) for n, k in merged)
        worst = max(worst, pearson / (len(merged) - 1))
    return worst


class _Tally:
    """Counts one run of samples against one budget."""

    __slots__ = ("_block", "_block_s", "_rule", "blocks", "n", "over", "seconds")

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.n = self.over = 0
        self.seconds = self._block_s = 0.0
        self.blocks: list[tuple[int, int]] = []
        self._block = [0, 0]

    def add(self, seconds: float, exceeds: bool) -> bool:
        """Count a sample; whether it is time for a look."""
        self.n += 1
        self.over += exceeds
        self.seconds += seconds
        self._block[0] += 1
        self._block[1] += exceeds
        self._block_s += seconds
        if self._block[0] < self._rule.block and self._block_s < self._rule.look_s:
            return False
        self.blocks.append((self._block[0], self._block[1]))
        self._block, self._block_s = [0, 0], 0.0
        return True

    @property
    def enough(self) -> bool:
        return self.n >= self._rule.least or self.seconds >= self._rule.least_s


class Gate:
    """Judges one budget, sample by sample.

    Args:
        budget: the bound to judge.
        rule: what counts as proof.
    """

    __slots__ = (
        "_confirm_cap",
        "_over_first",
        "_rule",
        "_tally",
        "_test",
        "budget",
        "confirmed",
        "log_e",
        "n",
        "over",
        "state",
    )

    def __init__(self, budget: Budget, rule: Rule | None = None) -> None:
        self.budget = budget
        self.state = State.OPEN
        self.n = self.over = self.confirmed = 0
        self.log_e = (0.0, 0.0)
        self._rule = rule or Rule()
        self._tally = _Tally(self._rule)
        self._test = None if budget.quantile == 1 else ExceedanceTest(budget.quantile)
        self._confirm_cap = self._over_first = 0

    @property
    def settled(self) -> bool:
        """No further sample is needed."""
        return self.state not in (State.OPEN, State.SUSPECT, State.CONFIRMING)

    def add(self, seconds: float) -> None:
        """Judge one more sample."""
        exceeds = seconds > self.budget.limit_s
        self.n += 1
        self.over += exceeds
        if self.state in (State.FAILED, State.UNCONFIRMED, State.SUSPECT):
            return
        look = self._tally.add(seconds, exceeds)
        if self._test is None:
            self._look_at_max(exceeds)
        elif look:
            self._look(self._test)

    def confirm(self) -> None:
        """Begin the confirming run: the caller has paused, and counts start anew."""
        self._confirm_cap = max(self._rule.least_confirm, self._tally.n)
        self._tally = _Tally(self._rule)
        self.state = State.CONFIRMING

    def _look(self, test: ExceedanceTest) -> None:
        tally, confirming = self._tally, self.state is State.CONFIRMING
        deflate = overdispersion(tally.blocks) if tally.over else 1.0
        over, within = test.log_evidence(tally.over / deflate, tally.n / deflate)
        if self.state is State.OPEN:
            self.log_e = (over, within)
        alpha = self._rule.alpha_confirm if confirming else self._rule.alpha_over
        if tally.enough and over >= -log(alpha):
            self._suspect_or_fail()
        elif confirming and tally.n >= self._confirm_cap:
            self.state = State.UNCONFIRMED
        elif self.state is State.OPEN and tally.n >= self._rule.least and within >= -log(self._rule.alpha_within):
            self.state = State.PASSED
            self._tally = _Tally(self._rule)  # what comes now is watched by itself: something may have changed

    def _look_at_max(self, exceeds: bool) -> None:
        if exceeds:
            self._suspect_or_fail()
        elif self.state is State.CONFIRMING:
            if self._tally.n >= self._confirm_cap:
                self.state = State.UNCONFIRMED
        elif self._tally.n >= self._rule.least_max:
            self.state = State.CONTENT

    def _suspect_or_fail(self) -> None:
        if self.state is State.CONFIRMING:
            self.confirmed = self._tally.n
            self.state = State.FAILED
        else:
            self.state = State.SUSPECT

    def verdict(self, samples_s: Sequence[float], seconds: float) -> Verdict:
        """What the samples so far prove.

        Args:
            samples_s: all samples of the span, for the estimates.
            seconds: how long the sampling took.
        """
        return Verdict(
            budget=self.budget,
            outcome=Outcome.UNDECIDED if self._belied else _OUTCOMES.get(self.state, Outcome.UNDECIDED),
            samples=self.n,
            over=self.over,
            confirmed=self.confirmed,
            seconds=seconds,
            estimates=estimates(samples_s, self.budget.quantile),
            reason=self._reason(),
            log_e_over=self.log_e[0],
            log_e_within=self.log_e[1],
        )

    @property
    def _belied(self) -> bool:
        """It was proven within, and what came since has been over more often than is allowed."""
        return self.state is State.PASSED and self.over > self.n * (1 - self.budget.quantile)

    def _reason(self) -> str:
        if self._belied:
            return "within at first, but over since, while another budget of this test was decided"
        if self.state is State.FAILED:
            return f"confirmed in a second run of {self.confirmed}"
        if self.state in (State.PASSED, State.CONTENT):
            return "proven within" if self._test else f"never exceeded in {self.n}"
        if self.state is State.UNCONFIRMED:
            return "over at first, but not again in a second run"
        if self.state in (State.SUSPECT, State.CONFIRMING):
            return "over at first; there was no time to confirm it in a second run"
        least = least_to_pass(self.budget.quantile, self._rule)
        if self.n < least:
            return f"too few samples: {self.n}, and {self.budget.name} needs {least} or more"
        return f"too close to tell after {self.n} samples"


_OUTCOMES = {State.PASSED: Outcome.PASS, State.CONTENT: Outcome.PASS, State.FAILED: Outcome.FAIL}


class Step(Enum):
    """What a set of gates wants its sampler to do."""

    SAMPLE = "take another sample"
    CONFIRM = "pause, then go on: a failure is to be confirmed"
    STOP = "stop: all is decided"


def next_step(gates: Iterable[Gate]) -> Step:
    """What gates that are judged together want: one proven failure settles them all."""
    states = [gate.state for gate in gates]
    if State.FAILED in states:
        return Step.STOP
    if State.SUSPECT in states:
        return Step.CONFIRM
    return Step.SAMPLE if State.OPEN in states or State.CONFIRMING in states else Step.STOP
