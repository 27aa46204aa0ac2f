"""Measures one area after another, and keeps what it has whatever ends it."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter

import anyio

from pytest_isolation.latency.arrivals import Pace, sample_paced
from pytest_isolation.latency.comparing import compare_async
from pytest_isolation.latency.decide import Step
from pytest_isolation.latency.noise import Clock
from pytest_isolation.latency.paired import Pairs
from pytest_isolation.latency.sampler import Limits, in_own_task
from pytest_isolation.latency.spans import Ledger, Recorder
from pytest_isolation.latency.tracing import Unrepeatable, explain_async
from pytest_isolation.load.target import NO_ROUTE, ROUTES, Refused
from pytest_isolation.model import Result
from pytest_isolation.profile.stages import Area, Site
from pytest_isolation.verdicts import Comparison

_WARM_UP = 20
_PAUSE_S = 0.25
_CALL_S = 30.0
_PACED_S = 60.0
_RATE = 5.0  # so many requests a second come from each user
_TOLERANCE = 0.05
_COMPARED_S = 20.0

Call = Callable[[], Awaitable[None]]


class Runner:
    """Measures areas on a site.

    Args:
        site: where.
        iterations: calls of each area.
        users: who come at once in a paced area.
        clock: tells what the machine added.
        tell: is told what is measured now.

    Attributes:
        results: one for each area that was begun.
        complaints: what could not be measured, and why.
        comparisons: with another backend.
    """

    def __init__(
        self, site: Site, iterations: int, users: int, clock: Clock, tell: Callable[[str], object] = lambda said: None
    ) -> None:
        self._site = site
        self._iterations = iterations
        self._users = users
        self._clock = clock
        self._tell = tell
        self.results: list[Result] = []
        self.complaints: list[str] = []
        self.comparisons: list[Comparison] = []

    async def measure(self, areas: Sequence[Area]) -> None:
        """Measure every area; one that fails does not keep the others from being measured."""
        for area in areas:
            self._tell(area.name)
            await self._measure(area)

    async def compare(self, areas: Sequence[Area], other: Site, name: str) -> None:
        """Run the areas on another backend and on this one, in turn.

        Args:
            areas: those over sockets and the paced ones are left out.
            other: the one before.
            name: of it.
        """
        for area in areas:
            if area.over_sockets or area.paced:
                continue
            self._tell(f"{area.name}, beside {name}")
            pairs, unheard = Pairs(_TOLERANCE), Recorder(Ledger(()))
            old, new = (partial(area.body, site, unheard) for site in (other, self._site))
            limits = Limits(_COMPARED_S, 2 * self._iterations, _WARM_UP)
            try:
                await compare_async(old, new, pairs, limits, self._clock)
            except Exception as error:  # a fault of either backend, whatever it is
                self.complaints.append(f"{area.name}, beside {name}: {type(error).__name__}: {error}")
            finally:
                if len(pairs):
                    self.comparisons.append(pairs.comparison(f"{area.name}, {name}"))

    async def _measure(self, area: Area) -> None:
        ledger, notes, begun = Ledger(area.budgets, clock=self._clock), list[str](), perf_counter()
        body = partial(area.body, self._site, Recorder(ledger))
        whole = False
        try:
            if area.paced:
                limits = Limits(_PACED_S, self._iterations, _WARM_UP, _PAUSE_S)
                await sample_paced(body, ledger, limits, Pace(_RATE, self._users))
                notes.append(await self._throughput(body))
            else:
                await self._sample(body, ledger)
            await self._explain(body, ledger)
            whole = True
        except Exception as error:  # a fault of the backend, whatever it is
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if isinstance(error, Refused) and error.status in NO_ROUTE:
                said += f". {ROUTES}"
            notes.append(f"failed after {max(map(len, ledger.samples.values()), default=0)} calls: {said}")
            self.complaints.append(f"{area.name} failed: {said}")
            whole = True
        finally:
            verdicts = tuple(v for v in ledger.verdicts(perf_counter() - begun) if v.samples)
            result = Result(area.name, verdicts=verdicts, interrupted=not whole, notes=tuple(notes))
            self.results.append(result)

    async def _sample(self, body: Call, ledger: Ledger) -> None:
        """Make all calls, though a verdict needs fewer: a profile is read for its quantiles. Then confirm a miss."""

        async def timed() -> None:
            mark, begun = ledger.clock.start(), perf_counter()
            with anyio.fail_after(_CALL_S):
                await body()
            seconds = perf_counter() - begun
            ledger.add(seconds, None, ledger.clock.lost_s(mark, seconds))

        for _ in range(_WARM_UP):
            await in_own_task(timed)
        ledger.clear()
        for _ in range(self._iterations):
            await in_own_task(timed)
        if ledger.step is not Step.CONFIRM:
            return
        gc.collect()
        await anyio.sleep(_PAUSE_S)
        ledger.confirm()
        left = self._iterations
        while left and _goes_on(ledger):
            await in_own_task(timed)
            left -= 1

    async def _explain(self, body: Call, ledger: Ledger) -> None:
        """Say why the whole call was over; a stage of a larger call cannot be traced by itself."""
        if not ledger.has_failed(None) or ledger.arrivals is not None:
            return
        try:
            ledger.causes[None] = await explain_async(body, ledger.clock)
        except Unrepeatable:
            return

    async def _throughput(self, body: Call) -> str:
        """How many calls a second there are when every user comes back at once."""
        left = self._iterations

        async def again_and_again() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await in_own_task(body)

        begun = perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(self._users):
                tasks.start_soon(again_and_again)
        rate = self._iterations / (perf_counter() - begun)
        return f"with {self._users} users who come back at once, {rate:,.0f} requests a second"


def _goes_on(ledger: Ledger) -> bool:
    return ledger.step is Step.SAMPLE
