"""From samples to a verdict: is the q-quantile of the latency within its budget?

Every sample comes with the part of it that the machine added, so the truth lies between two numbers: the latency as
it was measured, and the code's own part of it. A budget is missed when the lower one is proven over, twice; kept when
the upper one is proven within, or, said as such, when only the lower one is. What is proven is said in ``evidence``.

That holds for independent samples. Those that are not are met by two heuristics: samples count as fewer by the
overdispersion of the exceedances, and a failure must be confirmed by a second run after a pause. Of a burst that
outlasts the sampling, or falls between two, no statistic can know.

Nothing here reads a clock or runs a body; ``sampler`` does, and asks ``Gate.state`` what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import log

from pytest_isolation.latency.evidence import Dispersion, ExceedanceTest
from pytest_isolation.latency.quantile import estimates
from pytest_isolation.verdicts import Budget, MachineTime, Outcome, Verdict


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
        least_excluding: no pass with machine time excluded on fewer samples.
        least_max: how many samples must stay below a ``max`` before it counts as kept.
        least_confirm: a confirming run may take this many samples, or as many as the first.
        confirms: a failure needs a confirming run; without one the first proof is the last word.
    """

    alpha_over: float = 1e-4
    alpha_within: float = 1e-2
    alpha_confirm: float = 1e-2
    block: int = 20
    look_s: float = 0.25
    least: int = 40
    least_s: float = 0.5
    least_excluding: int = 100
    least_max: int = 100
    least_confirm: int = 1000
    confirms: bool = True


class State(Enum):
    """What a gate wants next."""

    OPEN = "more samples"
    SUSPECT = "a pause, then a confirming run"
    CONFIRMING = "more samples of the confirming run"
    CONTENT = "nothing, but a later sample may change that"
    PASSED = "nothing: proven within, but later samples are still watched"
    FAILED = "nothing: proven over, twice"
    UNCONFIRMED = "nothing: over at first, not again"


@lru_cache
def least_to_pass(q: float, rule: Rule = Rule()) -> int:
    """The fewest samples that can prove a budget on the q-quantile kept: when none of them is over."""
    if q == 1:
        return rule.least_max
    test, n = ExceedanceTest(q), rule.least
    while test.log_evidence(0, n)[1] < -log(rule.alpha_within):
        n += rule.block
    return n


class _Counts:
    """Exceedances of one run of samples, counted in one of the two ways."""

    __slots__ = ("_block", "dispersion", "over")

    def __init__(self) -> None:
        self.over = self._block = 0
        self.dispersion = Dispersion()

    def end_block(self, n: int) -> None:
        self.dispersion.add(n, self.over - self._block)
        self._block = self.over

    def deflated(self, n: int) -> tuple[float, float]:
        """As many exceedances, in as many samples, as these are worth."""
        deflate = self.dispersion.factor if self.over else 1.0
        return self.over / deflate, n / deflate


class _Tally:
    """Counts one run of samples against one budget."""

    __slots__ = ("_block_n", "_block_s", "_most_n", "_most_s", "_rule", "measured", "n", "own", "seconds")

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._most_n, self._most_s = rule.block, rule.look_s
        self.measured, self.own = _Counts(), _Counts()
        self.n = self._block_n = 0
        self.seconds = self._block_s = 0.0

    def add(self, seconds: float) -> bool:
        """Count a sample; whether it is time for a look."""
        self.n += 1
        self.seconds += seconds
        self._block_n += 1
        self._block_s += seconds
        if self._block_n < self._most_n and self._block_s < self._most_s:
            return False
        self.measured.end_block(self._block_n)
        self.own.end_block(self._block_n)
        self._block_n, self._block_s = 0, 0.0
        return True

    @property
    def enough(self) -> bool:
        return self.n >= self._rule.least or self.seconds >= self._rule.least_s

    @property
    def differs(self) -> bool:
        return self.measured.over != self.own.over


class Gate:
    """Judges one budget, sample by sample.

    Args:
        budget: the bound to judge.
        rule: what counts as proof.
    """

    __slots__ = (
        "_confirm_cap",
        "_excluded",
        "_first",
        "_limit_s",
        "_rule",
        "_tally",
        "_test",
        "budget",
        "confirmed",
        "n",
        "over",
        "own_over",
        "state",
    )

    def __init__(self, budget: Budget, rule: Rule | None = None) -> None:
        self.budget = budget
        self._limit_s = budget.limit_s
        self.state = State.OPEN
        self.n = self.over = self.own_over = self.confirmed = 0
        self._rule = rule or Rule()
        self._tally = self._first = _Tally(self._rule)
        self._test = None if budget.quantile == 1 else ExceedanceTest(budget.quantile)
        self._confirm_cap = 0
        self._excluded = False

    @property
    def settled(self) -> bool:
        """No further sample is needed."""
        return self.state not in (State.OPEN, State.SUSPECT, State.CONFIRMING)

    @property
    def is_hopeless(self) -> bool:
        """Every sample of this run is over so far; a few more would prove it, however slow they are."""
        return self.state in (State.OPEN, State.CONFIRMING) and self._tally.own.over == self._tally.n > 0

    def add(self, seconds: float, machine_s: float = 0.0) -> None:
        """Judge one more sample.

        Args:
            seconds: the latency as it was measured.
            machine_s: how much of it the machine added.
        """
        self.n += 1
        own_exceeds, counts = False, self.state not in _UNCOUNTED
        if seconds > self._limit_s:
            own_exceeds = seconds - machine_s > self._limit_s
            self.over += 1
            self.own_over += own_exceeds
            if counts:
                self._tally.measured.over += 1
                self._tally.own.over += own_exceeds
        if not counts:
            return
        look = self._tally.add(seconds)
        if self._test is None:
            self._look_at_max(own_exceeds)
        elif look:
            self._look(self._test)

    def confirm(self) -> None:
        """Begin the confirming run: the caller has paused, and counts start anew."""
        self._confirm_cap = max(self._rule.least_confirm, self._tally.n)
        self._tally = _Tally(self._rule)
        self.state = State.CONFIRMING

    def _look(self, test: ExceedanceTest) -> None:
        tally, rule, confirming = self._tally, self._rule, self.state is State.CONFIRMING
        own = tally.own.deflated(tally.n)
        if tally.enough and test.shows_over(*own, -log(rule.alpha_confirm if confirming else rule.alpha_over)):
            self._suspect_or_fail()
        elif confirming:
            if tally.n >= self._confirm_cap:
                self.state = State.UNCONFIRMED
        elif self.state is State.OPEN and tally.n >= rule.least:
            self._look_within(test, own)

    def _look_within(self, test: ExceedanceTest, own: tuple[float, float]) -> None:
        tally, log_least = self._tally, -log(self._rule.alpha_within)
        if test.shows_within(*(tally.measured.deflated(tally.n) if tally.differs else own), log_least):
            self._pass(excluded=False)
        elif tally.differs and tally.n >= self._rule.least_excluding and test.shows_within(*own, log_least):
            self._pass(excluded=True)

    def _evidence(self) -> tuple[float, float]:
        """Of the first run: that the own part is over, and that what was measured is within; as logarithms."""
        tally = self._first
        if self._test is None or not tally.n:
            return 0.0, 0.0
        own, measured = tally.own.deflated(tally.n), tally.measured.deflated(tally.n)
        return self._test.log_evidence(*own)[0], self._test.log_evidence(*measured)[1]

    def _look_at_max(self, own_exceeds: bool) -> None:
        if own_exceeds:
            self._suspect_or_fail()
        elif self.state is State.CONFIRMING:
            if self._tally.n >= self._confirm_cap:
                self.state = State.UNCONFIRMED
        elif self._tally.n >= self._rule.least_max:
            self.state = State.CONTENT

    def _suspect_or_fail(self) -> None:
        if self.state is State.CONFIRMING or not self._rule.confirms:
            self.confirmed = self._tally.n if self._rule.confirms else 0
            self.state = State.FAILED
        else:
            self.state = State.SUSPECT

    def _pass(self, excluded: bool) -> None:
        self.state = State.PASSED
        self._excluded = excluded
        self._tally = _Tally(self._rule)  # what comes now is watched by itself: something may have changed

    def verdict(self, samples_s: Sequence[float], seconds: float, machine_s: Sequence[float] | None = None) -> Verdict:
        """What the samples so far prove.

        Args:
            samples_s: all samples of the span, for the estimates.
            seconds: how long the sampling took.
            machine_s: what the machine added to each of them; None where it does not say.
        """
        log_over, log_within = self._evidence()
        return Verdict(
            budget=self.budget,
            outcome=Outcome.UNDECIDED if self._belied else _OUTCOMES.get(self.state, Outcome.UNDECIDED),
            samples=self.n,
            over=self.over,
            confirmed=self.confirmed,
            seconds=seconds,
            estimates=estimates(samples_s, self.budget.quantile),
            reason=self._reason(),
            log_e_over=log_over,
            log_e_within=log_within,
            machine=None if machine_s is None else self._machine(samples_s, machine_s),
        )

    def _machine(self, samples_s: Sequence[float], machine_s: Sequence[float]) -> MachineTime:
        own_s = [whole - added for whole, added in zip(samples_s, machine_s, strict=True)]
        found = next((e for e in estimates(own_s, self.budget.quantile) if e.quantile == self.budget.quantile), None)
        excluded = self._excluded or (self.state is State.CONTENT and self.over > 0)
        return MachineTime(sum(machine_s), sum(samples_s), self.own_over, found, excluded)

    @property
    def _belied(self) -> bool:
        """It was proven within, and what came since has been over more often than is allowed."""
        return self.state is State.PASSED and self.own_over > self.n * (1 - self.budget.quantile)

    def _reason(self) -> str:
        if self._belied:
            return "within at first, but over since, while another budget of this test was decided"
        if self.state is State.FAILED:
            return f"confirmed in a second run of {self.confirmed}" if self._rule.confirms else "proven over"
        if self.state is State.PASSED:
            return "within, machine time excluded" if self._excluded else "proven within"
        if self.state is State.CONTENT:
            return f"exceeded only with machine time, in {self.n}" if self.over else f"never exceeded in {self.n}"
        if self.state is State.UNCONFIRMED:
            return "over at first, but not again in a second run"
        if self.state in (State.SUSPECT, State.CONFIRMING):
            return "over at first; there was no time to confirm it in a second run"
        return self._why_open()

    def _why_open(self) -> str:
        least = least_to_pass(self.budget.quantile, self._rule)
        if self.n < least:
            return f"too few samples: {self.n}, and {self.budget.name} needs {least} or more"
        if self.over - self.own_over > self.n * _BUSY:
            return f"the machine was too busy to tell after {self.n} samples"
        return f"too close to tell after {self.n} samples"


# Where the machine alone pushed more of the samples over than this, it is to blame for the doubt.
_BUSY = 0.01
_UNCOUNTED = (State.FAILED, State.UNCONFIRMED, State.SUSPECT)
_OUTCOMES = {State.PASSED: Outcome.PASS, State.CONTENT: Outcome.PASS, State.FAILED: Outcome.FAIL}


class Step(Enum):
    """What a set of gates wants its sampler to do."""

    SAMPLE = "take another sample"
    CONFIRM = "pause, then go on: a failure is to be confirmed"
    STOP = "stop: all is decided"


def next_step(gates: Iterable[Gate]) -> Step:
    """What gates that are judged together want: one proven failure settles them all."""
    step = _STOP
    for gate in gates:
        state = gate.state
        if state is _FAILED:
            return _STOP
        if state is _SUSPECT:
            step = _CONFIRM
        elif step is _STOP and state in _WANTING:
            step = _SAMPLE
    return step


# This is asked before every sample, and before Python 3.12 a look at a member of an enumeration takes a function call.
_STOP, _CONFIRM, _SAMPLE = Step.STOP, Step.CONFIRM, Step.SAMPLE
_FAILED, _SUSPECT, _WANTING = State.FAILED, State.SUSPECT, (State.OPEN, State.CONFIRMING)
