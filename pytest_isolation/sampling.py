"""Samples one body until its budgets are decided, beside the version before if there is one; says why it missed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_isolation.latency.arrivals import Pace, sample_closed, sample_paced
from pytest_isolation.latency.interleaved import Interleaved, Old, Server, serve_async, serve_sync
from pytest_isolation.latency.rounds import take_rounds
from pytest_isolation.latency.sampler import Limits, sample_async, sample_sync
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.markers import Plan
from pytest_isolation.verdicts import Comparison

_COMPARE_S = 10.0
_NO_CAUSE = "why it was over budget cannot be said, because the body failed when it was run again to see"


class Sampling:
    """The samples of one test.

    Args:
        plan: its budgets, and the load.
        ledger: takes the samples.
        limits: of one sampling.
        old: the version before, with which it is compared.
        server: where this test, as the version before, is told what to run.
        most_s: so long a comparison may take; None is as long as usual.

    Attributes:
        comparisons: what came of them.
        notes: what else is to be said.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        limits: Limits,
        old: Old | None = None,
        server: Server | None = None,
        most_s: float | None = None,
    ) -> None:
        self.comparisons: list[Comparison] = []
        self.notes: list[str] = []
        self._plan = plan
        self._ledger = ledger
        self._limits = limits
        self._old, self._server = old, server
        self._compare_s = most_s or _COMPARE_S

    async def sample_async(self, call: Callable[[], Awaitable[object]]) -> None:
        """Sample an asynchronous body until its budgets are decided, under the load that its marker asks for."""
        load = self._plan.load
        if self._server is not None:
            await serve_async(call, self._ledger, self._server)
        if self._old is not None and self._plan.is_comparable:
            with self._compared(self._old) as one:
                await one.compare_async(self._plan.nodeid, call)
        if load.rate is not None:
            await sample_paced(call, self._ledger, self._limits, Pace(load.rate, load.users))
            return  # without the load a traced run would tell another story
        if load.concurrency is not None:
            await sample_closed(call, self._ledger, self._limits, load.concurrency)
        else:
            await sample_async(call, self._ledger, self._limits)
        await self.explain(call, self._ledger)

    def sample_sync(self, call: Callable[[], object], benchmark: Any = None) -> None:
        """The same for a synchronous body.

        Args:
            call: the body.
            benchmark: pytest-benchmark's fixture, if the body takes it: it repeats a part of the body by itself.
        """
        if benchmark is not None:
            call()
            self.notes += filter(None, [take_rounds(benchmark, self._ledger)])
            return
        if self._server is not None:
            serve_sync(call, self._ledger, self._server)
        if self._old is not None and self._plan.is_comparable:
            with self._compared(self._old) as one:
                one.compare_sync(self._plan.nodeid, call)
        sample_sync(call, self._ledger, self._limits)
        self.explain_sync(call, self._ledger)

    @contextmanager
    def _compared(self, old: Old) -> Iterator[Interleaved]:
        """What is to be run in turn with the version before; it counts whatever happens."""
        spans = dict.fromkeys(budget.span for budget in self._plan.budgets)
        one = Interleaved(old, self._ledger, spans, self._compare_s)
        try:
            yield one
        finally:
            self.comparisons += one.comparisons
            self.notes += filter(None, [one.note])

    async def explain(self, call: Callable[[], Awaitable[object]], ledger: Ledger, span: str | None = None) -> None:
        """See why an asynchronous body missed its budget; whatever comes of that, the verdict stays.

        Args:
            call: the body, or the part of it that was sampled.
            ledger: what it was judged by.
            span: the part that it is.
        """
        if ledger.has_failed(span) and span not in self._ledger.measured:
            from pytest_isolation.latency.tracing import Unrepeatable, explain_async

            try:
                ledger.causes[span] = await explain_async(call, ledger.clock, self._plan.load.concurrency or 1)
            except Unrepeatable as error:
                self.notes.append(f"{_NO_CAUSE}: {error}")

    def explain_sync(self, call: Callable[[], object], ledger: Ledger, span: str | None = None) -> None:
        """The same for a synchronous body."""
        if ledger.has_failed(span) and span not in self._ledger.measured:
            from pytest_isolation.latency.tracing import Unrepeatable, explain_sync

            try:
                ledger.causes[span] = explain_sync(call, ledger.clock)
            except Unrepeatable as error:
                self.notes.append(f"{_NO_CAUSE}: {error}")
