"""Runs a body in rounds and judges what it holds: growth, the peak, and objects that it has weighed.

Each run has a task and a Context of its own, as a sample of latency does; ``phases.rounds`` says what to do next.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import anyio.lowlevel

from pytest_isolation.awaited import refuse_awaitable, refuse_unawaited
from pytest_isolation.errors import IsolationError, NothingMeasured
from pytest_isolation.latency.sampler import in_own_task
from pytest_isolation.oracles.growth import (
    LEAST_PROOF_BYTES,
    LEAST_ROUNDS,
    LEAST_RUNS,
    Trend,
    last_third,
    theil_sen,
    trend,
)
from pytest_isolation.phases.rounds import Do, RoundPlan, Rounds
from pytest_isolation.verdicts import Held, MemoryBudget, MemoryVerdict, Outcome

# What is done for the first time is dear: imports, caches. One run is not counted; more, if objects are weighed there.
_FIRST, _WEIGHED = 1, 3
# Enough to see what a body holds at once, and no more: such a body may be a hundred users.
_PEAKS = 3
_SETTLING = 3


class Growing:
    """What the body of one test holds.

    Args:
        budget: what it may hold.
        plan: how far it is run.
        tell: is told how it goes; None tells nobody.
    """

    def __init__(self, budget: MemoryBudget, plan: RoundPlan, tell: Callable[[str], None] | None = None) -> None:
        self._budget = budget
        self._rounds = Rounds(plan, self._suspects, tell)
        self._first, self._unseen = 0, _FIRST if budget.object_bytes is None else _WEIGHED
        self._heaviest: int | None = None
        self._has_ended = False

    @property
    def weighs(self) -> bool:
        """An object that is handed over now is weighed: that is so in the first runs, before anything is counted."""
        return self._first < self._unseen

    @property
    def heaviest_bytes(self) -> int:
        """What the heaviest object weighs, of those until now."""
        return self._heaviest or 0

    def weighed(self, size: int) -> None:
        """Take down what an object weighs."""
        self._heaviest = max(size, self._heaviest or 0)

    async def play_async(self, body: Callable[[], Awaitable[object]]) -> None:
        """Run an asynchronous body in the running loop, each time in a task of its own."""

        async def run() -> None:
            value = await body()
            if value is not None:
                refuse_awaitable(value)

        with self._counted():
            while self._first < self._unseen:
                with nullcontext() if self._first else refuse_unawaited():
                    await in_own_task(run)
                self._first += 1
            with self._rounds.traced():
                for do in self._course():
                    if do is Do.RUN:
                        await in_own_task(run)
                        continue
                    for _ in range(_SETTLING):  # what the last run has set going gets to its end
                        await anyio.lowlevel.checkpoint()

    def play_sync(self, body: Callable[[], object]) -> None:
        """Run a synchronous body, each time in a copy of the current Context."""

        def run() -> None:
            value = body()
            if value is not None:
                refuse_awaitable(value)

        with self._counted():
            while self._first < self._unseen:
                with nullcontext() if self._first else refuse_unawaited():
                    contextvars.copy_context().run(run)
                self._first += 1
            with self._rounds.traced():
                for do in self._course():
                    if do is Do.RUN:
                        contextvars.copy_context().run(run)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Say of a run that fails how many went well before."""
        try:
            yield
        except Exception as error:
            ended = self._first + self._rounds.ended
            if ended and not isinstance(error, IsolationError):
                error.add_note(
                    f"pytest-isolation: {ended} run{'s' if ended > 1 else ''} of the body ended well before this one "
                    "failed. @memory repeats the body with the same fixtures: make it repeatable"
                )
            raise
        self._has_ended = True

    def _course(self) -> Iterator[Do]:
        if self._budget.growth_bytes is not None:
            return self._rounds.course()
        return self._rounds.peaks(_PEAKS if self._budget.peak_bytes is not None else 0)

    def _suspects(self, held: Sequence[int], runs: int, extended: bool) -> bool:
        limit = self._budget.growth_bytes
        return limit is not None and trend(last_third(held) if extended else held, runs).is_over(limit)

    def require_weighed(self) -> None:
        """Refuse a test that was to have something weighed, and had not.

        Raises:
            NothingMeasured: it says how.
        """
        if self._budget.object_bytes is not None and self._heaviest is None:
            raise NothingMeasured(
                "per_object_kb judges what is weighed, and nothing was: take the `memory` fixture, and say "
                "memory.weigh(request, shared=[backend]) in the body"
            )

    def verdicts(self) -> Iterator[MemoryVerdict]:
        """What the runs until now say of each limit."""
        budget = self._budget
        if budget.growth_bytes is not None:
            yield self._growth(budget.growth_bytes)
        runs = self._rounds.ended
        if budget.peak_bytes is not None:
            yield self._bounded(Held.PEAK, budget.peak_bytes, self._rounds.peak_bytes if runs else None, runs)
        if budget.object_bytes is not None:
            yield self._bounded(Held.OBJECT, budget.object_bytes, self._heaviest, self._first)

    def _growth(self, limit_bytes: float) -> MemoryVerdict:
        rounds = self._rounds
        held, resident = rounds.held, rounds.resident
        if rounds.extended > 1:
            held, resident = last_third(held), last_third(resident)
        found = trend(held, rounds.runs or 1)
        outcome, reason = self._decided(found, limit_bytes)
        process = theil_sen(resident) * 1000 / found.runs if found.rounds and all(resident) else None
        value = found.per_thousand_bytes if found.rounds else None
        return MemoryVerdict(
            *(Held.GROWTH, limit_bytes, value, outcome, reason, rounds.ended, found.rounds),
            *(found.tau, rounds.extended, process, rounds.lines),
        )

    def _decided(self, found: Trend, limit_bytes: float) -> tuple[Outcome, str]:
        rounds, times = self._rounds, f"after {self._rounds.extended} times as many rounds"
        judged = f"{found.rounds} rounds of {rounds.runs} run{'' if rounds.runs == 1 else 's'}"
        if not self._has_ended:
            growing = ", when growth was suspected" if rounds.suspected else ""
            return Outcome.UNDECIDED, f"stopped after {judged}{growing}"
        if rounds.suspected and rounds.ended < LEAST_RUNS and found.in_all_bytes < LEAST_PROOF_BYTES:
            few = f"in {rounds.ended} runs it grew, and it takes {LEAST_RUNS:,} to tell a leak from a cache that fills"
            return Outcome.UNDECIDED, few
        if rounds.suspected:
            return Outcome.FAIL, f"it grew, and still did {times}: the last {judged}"
        if rounds.extended > 1 and rounds.ended < LEAST_RUNS:
            few = f"in {rounds.ended} runs, and it takes {LEAST_RUNS:,} to say that it has ended"
            return Outcome.UNDECIDED, f"it grew at first, and no longer {times}: {few}"
        if rounds.extended > 1:
            return Outcome.PASS, f"it grew at first, and no longer {times}"
        if found.rounds < LEAST_ROUNDS:
            return Outcome.UNDECIDED, f"{judged}: it takes {LEAST_ROUNDS} rounds to tell a trend"
        if found.rounds * found.runs < LEAST_RUNS:
            few = f"no growth seen, and it takes {LEAST_RUNS:,} runs to say that there is none"
            return Outcome.UNDECIDED, f"{judged}: {few}"
        return Outcome.PASS, judged if found.per_thousand_bytes <= limit_bytes else f"{judged}: up and down, no trend"

    def _bounded(self, what: Held, limit_bytes: float, value: int | None, runs: int) -> MemoryVerdict:
        if value is not None and value > limit_bytes:
            outcome, reason = Outcome.FAIL, _MEANT[what]
        elif value is None or not self._has_ended:
            outcome, reason = Outcome.UNDECIDED, f"stopped after {runs} run{'' if runs == 1 else 's'}"
        else:
            outcome, reason = Outcome.PASS, _MEANT[what]
        return MemoryVerdict(what, limit_bytes, value, outcome, reason, runs)


_MEANT = {
    Held.PEAK: "the most that was held at once, above the start",
    Held.OBJECT: "the heaviest that was weighed",
}
