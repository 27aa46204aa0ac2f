"""Samples by named part: what a body measures, and the gates that judge it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from threading import Lock
from time import perf_counter
from types import TracebackType

from pytest_isolation.errors import MisuseError, NothingMeasured
from pytest_isolation.latency.decide import Gate, Rule, State, Step, next_step
from pytest_isolation.latency.noise import Clock, Mark, NoClock
from pytest_isolation.verdicts import Arrivals, Attribution, Budget, Outcome, Verdict

BODY = None

_BODY_HINT = (
    "A body that measures a part of itself is run only once, so its budgets belong to a span: "
    "@latency(span='…', p95_ms=…) and latency.measure(part, span='…')"
)


class Ledger:
    """Collects the samples of every span and hands them to the gates that judge them.

    Args:
        budgets: what is judged; a budget whose span is None judges the whole body.
        rule: what counts as proof.
        clock: tells what the machine added; None takes all of a latency for the code's own.

    Attributes:
        clock: the same.
        samples: seconds, by span.
        machine: what the machine added to each of them, in seconds.
        untold: the spans of which some samples came without that, so that it is not known.
        raised: how often an entry of a span ended with an exception, which is no sample.
        gates: one for each budget.
        self_timed: the body recorded its own time (``Recorder.record``), so that the sampler does not.
        measured: the spans that the body sampled by itself (``adopt``), so that it is not to be repeated.
        arrivals: how the samples of the body arrived; None is one after another.
        causes: why a span was over its budget, as far as that was looked for.
    """

    def __init__(self, budgets: Iterable[Budget], rule: Rule | None = None, clock: Clock | None = None) -> None:
        self._rule = rule
        self.clock = clock or NoClock()
        self.arrivals: Arrivals | None = None
        self.causes: dict[str | None, Attribution] = {}
        self._lock = Lock()
        self._budgets = tuple(budgets)
        self.self_timed = False
        self.measured: set[str | None] = set()
        self.clear()

    def clear(self) -> None:
        """Forget every sample: what came before was warm-up."""
        self.samples: defaultdict[str | None, list[float]] = defaultdict(list)
        self.machine: defaultdict[str | None, list[float]] = defaultdict(list)
        self.untold: set[str | None] = set()
        self.raised: Counter[str] = Counter()
        self.gates = [Gate(budget, self._rule) for budget in self._budgets]
        self._by_span: defaultdict[str | None, list[Gate]] = defaultdict(list)
        for gate in self.gates:
            self._by_span[gate.budget.span].append(gate)

    def add(self, seconds: float, span: str | None = BODY, machine_s: float | None = None) -> None:
        """Take one sample of a span, or of the body, and what of it the machine added; None where nobody knows."""
        with self._lock:  # spans end in threads too
            if machine_s is None:
                self.untold.add(span)
                machine_s = 0.0
            self.samples[span].append(seconds)
            self.machine[span].append(machine_s)
            for gate in self._by_span.get(span, ()):
                gate.add(seconds, machine_s)

    @property
    def entered(self) -> frozenset[str]:
        """The spans that have samples."""
        return frozenset(name for name in self.samples if name is not None)

    @property
    def blind(self) -> bool:
        """Some budget has not had a single sample."""
        return any(gate.n == 0 for gate in self.gates)

    @property
    def taken(self) -> int:
        """How many samples the busiest budget has had."""
        return max((gate.n for gate in self.gates), default=0)

    def net(self) -> dict[str, list[float]]:
        """What was measured without what the machine added, in plain values; the body is the span ""."""
        return {
            span or "": [whole - added for whole, added in zip(samples, self.machine[span], strict=True)]
            for span, samples in self.samples.items()
            if samples
        }

    def part(self, span: str | None) -> Ledger:
        """A ledger of its own for one span, with the same budgets; ``adopt`` brings it back."""
        return Ledger((budget for budget in self._budgets if budget.span == span), self._rule, self.clock)

    def adopt(self, part: Ledger, span: str | None) -> None:
        """Take over what a part has measured: from now on the body is neither repeated nor timed."""
        self.measured.add(span)
        self.samples[span], self.machine[span] = part.samples[span], part.machine[span]
        self.untold |= part.untold
        self.causes |= part.causes
        self.gates = [gate for gate in self.gates if gate.budget.span != span] + part.gates
        self._by_span[span] = part.gates

    def machine_of(self, span: str | None) -> Sequence[float] | None:
        """What the machine added to each sample of a span; None where that is not known."""
        return self.machine[span] if self.clock.known and span not in self.untold else None

    @property
    def step(self) -> Step:
        """What the gates want next."""
        return next_step(self.gates)

    def has_failed(self, span: str | None = BODY) -> bool:
        """A budget of this span is proven missed."""
        return any(gate.state is State.FAILED for gate in self._by_span.get(span, ()))

    @property
    def outlook(self) -> str:
        """How it goes with the first budget that is not decided."""
        gate = next((gate for gate in self.gates if not gate.settled), None)
        if gate is None:
            return ""
        return f"{gate.budget.name} ≤ {gate.budget.limit_s * 1e3:g} ms: {gate.over} of {gate.n} samples over"

    @property
    def is_hopeless(self) -> bool:
        """Of some budget every sample is over so far."""
        return any(gate.is_hopeless for gate in self.gates)

    def confirm(self) -> None:
        """Begin the confirming run of every gate that asked for it."""
        for gate in self.gates:
            if next_step((gate,)) is Step.CONFIRM:
                gate.confirm()

    def verdicts(self, seconds: float) -> tuple[Verdict, ...]:
        """What has been proven so far.

        Args:
            seconds: how long the sampling took.
        """
        return tuple(self._verdict(gate, seconds) for gate in self.gates)

    def _verdict(self, gate: Gate, seconds: float) -> Verdict:
        span = gate.budget.span
        verdict = gate.verdict(self.samples.get(span, ()), seconds, self.machine_of(span))
        if verdict.outcome is Outcome.FAIL:
            verdict = replace(verdict, cause=self.causes.get(span))
        if self.arrivals is None or span in self.measured:
            return verdict
        if not self.arrivals.overloaded or span is not BODY:
            return replace(verdict, arrivals=self.arrivals)
        outcome = Outcome.FAIL if verdict.outcome is Outcome.FAIL else Outcome.UNDECIDED
        # A latency that grows as long as one looks has no quantile.
        return replace(
            verdict,
            arrivals=self.arrivals,
            outcome=outcome,
            estimates=(),
            reason="overloaded: the queue is still growing",
        )

    def require_samples(self) -> None:
        """Refuse a budget without a sample.

        Raises:
            NothingMeasured: it names the span and those that were entered instead.
        """
        for gate in self.gates:
            span = gate.budget.span
            if not self.samples.get(span):
                entered = ", ".join(repr(name) for name in self.samples if name is not None) or "none"
                what = "the body" if span is None else f"the span {span!r}"
                how = "was never measured"
                if span is not None and self.raised[span]:
                    how = f"raised each of the {self.raised[span]} times it was entered, and what raises is no sample"
                raise NothingMeasured(
                    f"{gate.budget.name} ≤ {gate.budget.limit_s * 1e3:g} ms has no sample: {what} {how}. "
                    f"Spans that were: {entered}. "
                    + (f"Enter it in the body: with latency.span({span!r}): …" if span else _BODY_HINT)
                )


class Span:
    """A named part of an operation, timed from entry to exit; one that raises is no sample.

    Works with ``with`` and with ``async with``. Every entry takes a sample of its own.
    """

    __slots__ = ("_ledger", "_mark", "_name", "_start")

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name
        self._mark: Mark | None = None

    def __enter__(self) -> None:
        if self._mark is not None:
            raise MisuseError(
                f"this span {self._name!r} is entered already, and times one thing at once: "
                f"call latency.span({self._name!r}) for each"
            )
        self._mark = self._ledger.clock.start()
        self._start = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        seconds = perf_counter() - self._start
        assert self._mark is not None
        mark, self._mark = self._mark, None
        if kind is None:
            self._ledger.add(seconds, self._name, self._ledger.clock.lost_here_s(mark, seconds))
        else:
            self._ledger.raised[self._name] += 1

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, where)


class Recorder:
    """Lets a test say what is to be measured in it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def span(self, name: str) -> Span:
        """A named part: ``with latency.span("agent.create"):``, or ``async with``.

        Args:
            name: what the marker calls it: ``@pytest.mark.latency(span="agent.create", p95_ms=10)``.
        """
        if not name or not isinstance(name, str):
            raise MisuseError(f"a span has a name: latency.span('agent.create'), not latency.span({name!r})")
        return Span(self._ledger, name)

    def record(self, seconds: float, span: str | None = BODY) -> None:
        """Take a latency that was measured elsewhere.

        Args:
            seconds: how long it took.
            span: of which named part; None stands for the body, whose own time is then not taken.

        Raises:
            MisuseError: the latency is negative, infinite or not a number, or the span is no text.
        """
        if span is not BODY and (not isinstance(span, str) or not span):
            raise MisuseError(f"a span is named by a text: latency.record(0.002, span='agent.create'), not {span!r}")
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not (isfinite(seconds) and seconds >= 0)
        ):
            raise MisuseError(f"a latency is a number of seconds ≥ 0, not {seconds!r}")
        if span is BODY:
            self._ledger.self_timed = True
        self._ledger.add(seconds, span)
