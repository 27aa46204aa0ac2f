"""What the fixture ``latency`` hands out: names parts, takes latencies from elsewhere, samples and compares parts."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from pytest_isolation.awaited import refuse_uncallable
from pytest_isolation.errors import MisuseError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from pytest_isolation.backend import Timings
    from pytest_isolation.engine import Play
    from pytest_isolation.latency.paired import Pairs
    from pytest_isolation.latency.spans import Ledger, Span
    from pytest_isolation.verdicts import Comparison


class Latency:
    """What is to be measured in a test."""

    def __init__(self, play: Play) -> None:
        from pytest_isolation.latency.spans import Recorder

        self._play = play
        self._recorder = Recorder(play.ledger)

    def span(self, name: str) -> Span:
        """A named part, timed from entry to exit; for ``with`` and ``async with``.

        Args:
            name: what the marker calls it: ``@pytest.mark.latency(span="agent.create", p95_ms=10)``.
        """
        return self._recorder.span(name)

    def record(self, seconds: float, span: str | None = None) -> None:
        """Take a latency that was measured elsewhere.

        Args:
            seconds: how long it took.
            span: of which named part; None stands for the body, whose own time is then not taken.
        """
        self._recorder.record(seconds, span)

    def listen_to(self, source: TracerProvider | Timings) -> None:
        """Take what a backend times by itself as samples, by its names, until the test ends.

        Args:
            source: a ``TracerProvider`` of the OpenTelemetry SDK (the one that is set globally is heard anyway), or
                an object with ``listen(hear)``, which from then on calls ``hear(name, seconds)``: the reference
                backend's ``metrics``.

        Raises:
            MisuseError: it is neither.
        """
        from pytest_isolation.latency.otel import listen_to

        if callable(getattr(source, "add_span_processor", None)):
            listen_to(cast("TracerProvider", source), self._play.ledger)
        elif callable(getattr(source, "listen", None)):
            self._play.listen_to(cast("Timings", source))
        else:
            raise MisuseError(
                "listen_to() takes a TracerProvider of the OpenTelemetry SDK, or an object with listen(hear), "
                f"not {source!r}"
            )

    async def measure(self, part: Callable[[], Awaitable[object]], span: str | None = None) -> None:
        """Sample a part of an async body until the marker's budgets are decided; the body itself then runs only once.

        Args:
            part: an async function without arguments, called for every sample in a task of its own.
            span: whose budgets it is judged by; None stands for the budgets without a span.

        Raises:
            MisuseError: no budget is on this span, it has been measured before, or the part is not async.
        """
        from pytest_isolation.latency.sampler import sample_async

        refuse_uncallable(part, "await latency.measure(part)")
        with self._part(span) as own:
            await sample_async(_async_only(part), own, self._play.limits, span)
            await self._play.sampling.explain(_async_only(part), own, span)

    def measure_sync(self, part: Callable[[], object], span: str | None = None) -> None:
        """Sample a part of a sync body, as ``measure`` does with an async one.

        Args:
            part: a function without arguments, called for every sample in a copy of the current Context.
            span: whose budgets it is judged by; None stands for the budgets without a span.

        Raises:
            MisuseError: no budget is on this span, or it has been measured before.
        """
        from pytest_isolation.latency.sampler import sample_sync

        refuse_uncallable(part, "latency.measure_sync(part)")
        with self._part(span) as own:
            sample_sync(part, own, self._play.limits, span)
            self._play.sampling.explain_sync(part, own, span)

    async def compare(
        self,
        old: Callable[[], Awaitable[object]],
        new: Callable[[], Awaitable[object]],
        tolerance: float = 0.05,
        name: str = "new",
    ) -> Comparison:
        """Judge whether a new version of something is slower than an old one; the test fails if that is proven.

        They run in turn, new with old, old with new, so that whatever the machine does it does to both.

        Args:
            old: an async function without arguments.
            new: what takes its place.
            tolerance: how much longer it may take, as a share: 0.05 is 5 %.
            name: of what is compared, for the report.

        Raises:
            MisuseError: one of them is not async, or the tolerance is no share.
        """
        from pytest_isolation.latency.comparing import compare_async

        for function in (old, new):
            refuse_uncallable(function, "await latency.compare(old, new)")
        with self._compared(tolerance, name) as pairs:
            await compare_async(_async_only(old), _async_only(new), pairs, self._play.limits, self._play.clock)
        return self._play.sampling.comparisons[-1]

    def compare_sync(
        self, old: Callable[[], object], new: Callable[[], object], tolerance: float = 0.05, name: str = "new"
    ) -> Comparison:
        """The same for functions that are not async."""
        from pytest_isolation.latency.comparing import compare_sync

        for function in (old, new):
            refuse_uncallable(function, "latency.compare_sync(old, new)")
        with self._compared(tolerance, name) as pairs:
            compare_sync(old, new, pairs, self._play.limits, self._play.clock)
        return self._play.sampling.comparisons[-1]

    @contextmanager
    def _compared(self, tolerance: float, name: str) -> Iterator[Pairs]:
        """Pairs to be filled; what they prove counts whatever happens."""
        from pytest_isolation.latency.paired import Pairs

        if self._play.plan.is_judged:
            raise MisuseError("compare() judges by itself: a marker would repeat it. Take @latency or @isolation away")
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 10:
            raise MisuseError(f"a tolerance is a share, as 0.05 for 5 %, not {tolerance!r}")
        pairs = Pairs(float(tolerance))
        try:
            yield pairs
        finally:
            if len(pairs):
                self._play.sampling.comparisons.append(pairs.comparison(str(name)))

    @contextmanager
    def _part(self, span: str | None) -> Iterator[Ledger]:
        """The ledger of one part, whose samples count whatever happens."""
        ledger, plan = self._play.ledger, self._play.plan
        if plan.users is not None:
            raise MisuseError("measure() cannot work in an isolation scenario: the crowd repeats its body, not a part")
        if not any(budget.span == span for budget in plan.budgets):
            wanted, others = f"span={span!r}, " if span else "", sorted({b.span for b in plan.budgets if b.span})
            hint = f"; it has budgets on the span {others[0]!r}: measure(part, span={others[0]!r})" if others else ""
            raise MisuseError(f"measure() has no budget to decide: mark the test with latency({wanted}p95_ms=…){hint}")
        if span in ledger.measured:
            which = f"the span {span!r}" if span else "the body"
            raise MisuseError(f"{which} has been measured before; give every part a span of its own")
        own = ledger.part(span)
        try:
            yield own
        finally:
            ledger.adopt(own, span)


def _async_only(part: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    """The part itself if it certainly is async; else one that looks at what it returns."""
    if inspect.iscoroutinefunction(part):
        return part

    async def checked() -> object:
        value = part()
        if not inspect.isawaitable(value):
            raise MisuseError("measure() takes an async function; for a sync one there is latency.measure_sync(part)")
        return await value

    return checked
