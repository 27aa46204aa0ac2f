"""Lets users come when they are due, and counts what becomes of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from itertools import chain, pairwise
from random import Random
from time import perf_counter

from pytest_isolation.errors import NothingMeasured
from pytest_isolation.latency.noise import Clock, MachineClock, NoClock
from pytest_isolation.load.arrivals import Arrival, arrivals
from pytest_isolation.load.memory import Memory
from pytest_isolation.load.operations import ACTS, Visitor
from pytest_isolation.load.outcome import Outcome, conclude
from pytest_isolation.load.plan import TALK, Operation, Phase, Plan
from pytest_isolation.load.progress import Progress
from pytest_isolation.load.tally import CancelledByTarget, Leaks, PhaseTally, TimedOut
from pytest_isolation.load.target import NO_ROUTE, ROUTES, Seat, Target
from pytest_isolation.users.cast import Cast, hand_over

_STAY = 20  # a user says so much and leaves; what it said would otherwise make every answer longer than the last
_REHEARSALS = 3
_GRACE_S = 5.0  # so long after the end of a phase users who are behind may still send what was due
_IDLE_S = 1.0
_CLOSING_S = 30.0
_EARLY_S = 0.001  # timers are as coarse, and what they are late is no latency of the target
_TICK_S, _READING_S = 0.25, 1.0


class Place:
    """A seat, and who sits there now."""

    __slots__ = ("free_at", "index", "seat", "task", "visitor", "waits")

    def __init__(self, seat: Seat, index: int) -> None:
        self.seat = seat
        self.index = index
        self.visitor: Visitor | None = None
        self.free_at = 0.0
        self.task: asyncio.Task[None] | None = None
        self.waits = False


class Runner:
    """One load test.

    Args:
        plan: what to do.
        target: to whom.
        progress: who is told how far it is.
    """

    def __init__(self, plan: Plan, target: Target, progress: Progress) -> None:
        self._plan = plan
        self._target = target
        self._progress = progress
        self._cast = Cast(plan.seed, "isolation load")
        self._leaks = Leaks()
        self._tallies: list[PhaseTally] = []
        self._places: list[Place] = []
        self._echo = False
        self._attempts = self._under_way = 0
        self._stopped_at: float | None = None
        self._notes: list[str] = []
        self._clock: Clock = NoClock()

    def stop(self) -> None:
        """Let nobody else come; what is under way is waited for."""
        if self._stopped_at is None:
            self._stopped_at = perf_counter()
            self._progress.say(f"stopping: {self._under_way} requests are under way; Ctrl-C again to leave them")
            for place in self._places:
                if place.waits and place.task is not None:
                    place.task.cancel()

    async def run(self) -> Outcome:
        """Do all of it.

        Raises:
            MisuseError: the target cannot be started.
        """
        try:
            await self._target.start()
            # Of what another process waits for, the thread here knows nothing.
            self._clock = MachineClock() if self._target.pid == os.getpid() else self._clock
            memory = None if self._target.pid is None else Memory(self._target.pid)
            watch = asyncio.create_task(self._watch(memory))
            try:
                await self._phases()
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
        finally:
            await self._close()
        return conclude(
            self._target.name,
            self._plan,
            self._tallies,
            self._leaks,
            None if memory is None else memory.trend,
            interrupted=self._stopped_at is not None,
            notes=self._notes,
            knows_machine=self._clock.known,
        )

    async def _close(self) -> None:
        """Close the target; what goes wrong there does not cost what was measured."""
        try:
            async with asyncio.timeout(_CLOSING_S):
                await self._target.aclose()
        except Exception as error:
            self._notes.append(f"the target did not close well: {type(error).__name__}: {error}")

    async def _phases(self) -> None:
        async with self._seated(self._plan.users, 0) as regulars:
            if not await self._rehearse(regulars[0]):
                return
            for phase in self._plan.phases:
                if self._stopped_at is not None:
                    return
                async with self._seated(phase.newcomers, len(regulars)) as newcomers:
                    await self._perform(phase, regulars, newcomers)

    @asynccontextmanager
    async def _seated(self, count: int, first: int) -> AsyncIterator[list[Place]]:
        places = [Place(self._target.seat(), first + index) for index in range(count)]
        self._places += places
        try:
            yield places
        finally:
            for place in places:
                self._places.remove(place)
                await place.seat.aclose()

    async def _rehearse(self, place: Place) -> bool:
        """Let one user be alone for a while: pools and caches fill up, and what fails now fails without any load.

        Raises:
            NothingMeasured: it got no answer at all.
        """
        mix = {**self._plan.mix, **TALK, Operation.IDLE: 0.0}  # who only listens learns nothing
        alone = PhaseTally(Phase("alone", _GRACE_S, mix=mix))
        alone.begun = perf_counter()
        for operation in list(alone.operations) * _REHEARSALS:
            if self._stopped_at is not None:
                return False
            place.free_at = perf_counter()
            await self._attend(place, alone, operation, place.free_at, place.free_at)
        visitor, place.visitor = place.visitor, None
        failed = "; ".join(f"{kind}: {fault.example}" for kind, fault in alone.faults.items())
        if any(f"status {status}" in alone.faults for status in NO_ROUTE):
            failed += f". {ROUTES}"
        if alone.errors == alone.attempts:
            raise NothingMeasured(f"a user who was alone tried {alone.attempts} times and got no answer: {failed}")
        if failed:
            said = f"{alone.errors} of {alone.attempts} attempts of a user who was alone failed: {failed}"
            self._notes.append(said)
            self._progress.say(said)  # so that nobody has to wait for the end of a load that is for nothing
        self._echo = visitor is not None and 0 < len(visitor.said) == visitor.echoes
        if not self._echo:
            self._notes.append(
                "answers do not hold what was said, so a wrong one can hardly be told from a right one; "
                "secrets of somebody else are found all the same"
            )
        return True

    async def _perform(self, phase: Phase, regulars: list[Place], newcomers: list[Place]) -> None:
        tally = PhaseTally(phase)
        self._tallies.append(tally)
        tally.begun = perf_counter()
        async with asyncio.TaskGroup() as group:
            for place in (*regulars, *newcomers):
                chance = Random(f"{self._plan.seed}:{phase.name}:{place.index}")
                due = arrivals(chance, phase.seconds, self._plan.pause_s, phase.mix, at_once=place in newcomers)
                place.free_at = tally.begun
                place.task = group.create_task(self._play(place, tally, due))
        if self._stopped_at is not None:
            tally.seconds = min(phase.seconds, self._stopped_at - tally.begun)
        self._progress.ended(tally)

    async def _play(self, place: Place, tally: PhaseTally, due: Iterator[Arrival]) -> None:
        """One user's way through a phase."""
        last = tally.begun + tally.phase.seconds + _GRACE_S
        for arrival, following in pairwise(chain(due, (None,))):
            assert arrival is not None
            at = tally.begun + arrival.due_s
            if not await self._until(place, at):
                if at < (self._stopped_at or 0.0):
                    tally.backlog.due(arrival.due_s)
                continue
            tally.backlog.due(arrival.due_s)
            if perf_counter() > last:
                tally.dropped += 1
                continue
            gap = following.due_s - arrival.due_s if following is not None else tally.phase.seconds - arrival.due_s
            await self._attend(place, tally, arrival.operation, at, at + min(_IDLE_S, 0.9 * gap))

    async def _until(self, place: Place, due: float) -> bool:
        """Wait until somebody is due; False if nobody is to come any more."""
        early = due - perf_counter() - _EARLY_S
        if early > 0 and self._stopped_at is None:
            place.waits = True
            try:
                await asyncio.sleep(early)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._stopped_at is None or task is None or task.uncancel():
                    raise
            finally:
                place.waits = False
        return self._stopped_at is None

    async def _attend(
        self, place: Place, tally: PhaseTally, operation: Operation, due: float, idle_until: float
    ) -> None:
        """Do one thing, judge it, count it."""
        visitor = place.visitor
        if visitor is None or visitor.turn >= _STAY:
            [user] = self._cast.users(1)
            visitor = place.visitor = Visitor(user, self._echo)
        visitor.heard_at = None
        begun, mark = perf_counter(), self._clock.as_of(due)
        tally.lag.add(max(0.0, begun - max(due, place.free_at)))
        self._under_way += 1
        limit_s = self._plan.timeout_s + (_IDLE_S if operation is Operation.IDLE else 0.0)
        error = await _outcome(ACTS[operation](place.seat, visitor, idle_until), limit_s)
        now = perf_counter()
        heard_at = now if error is not None else visitor.heard_at or now
        self._under_way -= 1
        self._attempts += 1
        seconds = heard_at - min(due, begun)
        # Who only listens was heard long ago: what the machine added since then is no part of it.
        machine_s = 0.0 if operation is Operation.IDLE else self._clock.lost_s(mark, seconds)
        tally.operations[operation].take(seconds, error, machine_s, at_once=due == tally.begun)
        tally.backlog.done(heard_at - tally.begun)
        run = hand_over(visitor.user, error)
        evidence = self._cast.evidence(f"{tally.phase.name}, {operation}, seed {self._plan.seed}", [run])
        self._leaks.look(evidence, run)
        if error is not None:
            tally.fault(error, evidence)
        place.free_at = perf_counter()

    async def _watch(self, memory: Memory | None) -> None:
        """Say now and then how far it is, and look at the memory."""
        next_reading = 0.0
        while True:
            now = perf_counter()
            if memory is not None and now >= next_reading and self._tallies:
                memory.read(self._attempts)
                next_reading = now + _READING_S
            if self._tallies and self._stopped_at is None:
                self._progress.tick(self._tallies[-1], now, len(self._places), self._under_way, self._leaks.answers)
            await asyncio.sleep(_TICK_S)


async def _outcome(act: Coroutine[object, object, None], limit_s: float) -> Exception | None:
    """What an operation failed by; it runs in a task and a Context of its own, as a server would have it."""
    task = asyncio.create_task(act)
    try:
        async with asyncio.timeout(limit_s) as patience:
            await task
    except TimeoutError as error:
        return TimedOut(f"no answer within {limit_s:g} s") if patience.expired() else error
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is None or current.cancelling():
            raise
        return CancelledByTarget("the target cancelled the task of a request")
    except Exception as error:  # whatever a target raises is counted, and one of each kind is shown
        return error
    return TimedOut(f"no answer within {limit_s:g} s") if patience.expired() else None
