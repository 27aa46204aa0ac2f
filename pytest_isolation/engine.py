"""Plays one test: lets its users go through the phases, has oracles and budgets judge, and keeps what is proven."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import anyio

from pytest_isolation.awaited import refuse_awaitable, refuse_unawaited
from pytest_isolation.backend import Timings
from pytest_isolation.checks import Checks
from pytest_isolation.errors import TokenError
from pytest_isolation.judge import Extensions, Judge
from pytest_isolation.latency.interleaved import Old, Server
from pytest_isolation.latency.noise import Clock
from pytest_isolation.latency.otel import listening
from pytest_isolation.latency.sampler import Limits
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.loops import lost_errors_ignored
from pytest_isolation.markers import Plan
from pytest_isolation.model import Finding, PhaseCount, Result, Run
from pytest_isolation.offstage import Offstage
from pytest_isolation.oracles.ambient import settled_alone
from pytest_isolation.oracles.retention import cycles
from pytest_isolation.oracles.tasks import grown
from pytest_isolation.phases.crowd import crowd, crowd_in_threads, forget_frames
from pytest_isolation.phases.recording import hear_span, recording
from pytest_isolation.phases.scene import InTurn, Scene, Script
from pytest_isolation.phases.surroundings import Surroundings
from pytest_isolation.phases.token import Token, check_of, parse
from pytest_isolation.playbook import Playbook
from pytest_isolation.sampling import Sampling
from pytest_isolation.settings import Settings
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import Cast, User, run_of
from pytest_isolation.users.lendings import Lendings
from pytest_isolation.users.story import Story

if TYPE_CHECKING:
    from pytest_isolation.exploring import Explorer, Search
    from pytest_isolation.growing import Growing


class Play:
    """One test on its way through its plan.

    Args:
        plan: what its markers ask for.
        settings: what the person who runs the tests asked for.
        cast: where its users come from.
        seed: the session's, for replay tokens.
        extensions: further oracles and exceptions.
        clock: tells what the machine adds to a latency.
        workers: how many processes share the machine.
        tell: is told how a long test goes.
        old: the version before, with which it is compared.
        server: where this test, as the version before, is told what to run.
        part: which of several checks of one test this is; None where there is one.

    Attributes:
        given: what the fixtures gave to the body.
        sampling: samples the body, if it has budgets.
        offstage: the users who play outside a scenario.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        cast: Cast,
        seed: int,
        extensions: Extensions | None = None,
        clock: Clock | None = None,
        workers: int = 1,
        tell: Callable[[str], None] | None = None,
        old: Old | None = None,
        server: Server | None = None,
        part: int | None = None,
    ) -> None:
        self.plan = plan
        self.cast = cast
        cast.anonymous = plan.anonymous
        self.ledger = Ledger(plan.budgets, clock=clock)
        self.clock = self.ledger.clock
        self.limits = Limits(settings.sampling_seconds, settings.max_samples, tell=tell)
        self.sampling = Sampling(plan, self.ledger, self.limits, old, server, settings.max_seconds)
        self.growing: Growing | None = None
        if plan.memory is not None:
            from pytest_isolation.growing import Growing
            from pytest_isolation.phases.rounds import RoundPlan

            self.growing = Growing(plan.memory, RoundPlan(settings.sampling_seconds), tell)
        self.started = False
        self.given: Mapping[str, Any] = {}
        self.checks: Checks | None = None
        self._seed = seed
        self._part = part
        self._workers = workers
        self._runs: list[Run] = []
        cast.tracked.pauses_collector, cast.tracked.is_strict = not plan.budgets, bool(plan.heap)
        self._around = Surroundings(grown, cast.tracked)
        self._judge = Judge(extensions or Extensions())
        self._replay = parse(settings.replay) if settings.replay else None
        self.book = Playbook(plan, cast, seed, self._judge, self._around, self.ledger, self.limits, self._replay, part)
        self.offstage = Offstage(plan, cast, self.book, self._judge, seed)
        self._phases: Counter[str] = Counter()
        self._phase_s: defaultdict[str, float] = defaultdict(float)
        self._other_notes: list[str] = []
        self._scene: Scene | None = None
        self._sources: list[Timings] = []
        self._begun = self._sampled_s = 0.0

    @property
    def lendings(self) -> Lendings:
        """What is lent of the pools that are watched; plays of one test share it."""
        return self._around.lendings

    @lendings.setter
    def lendings(self, lendings: Lendings) -> None:
        self._around.lendings = lendings

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self.started, self._begun = True, perf_counter()
        try:
            # What a listener keeps would be counted as growth of the body.
            with listening(self.ledger, hear_span) if self.growing is None else nullcontext():
                yield
        finally:
            while self._sources:
                self._sources.pop().listen(None)
            self._sampled_s = perf_counter() - self._begun
            if self.limits.tell is not None:
                self.limits.tell("")

    def listen_to(self, source: Timings) -> None:
        """Take what a backend times by itself as samples, until the body has been played."""
        self._sources.append(source)
        self.clock.as_of(perf_counter())  # from now on it can be told what of a time that has passed was the machine's
        source.listen(lambda name, seconds: self.ledger.add(seconds, name, self.clock.lost_lately_s(seconds)))

    async def perform_async(self, call: Callable[..., Awaitable[object]]) -> None:
        """Play an asynchronous test in the running event loop.

        Args:
            call: the body; keyword arguments override what the fixtures gave.
        """
        with self._under_way():
            if self.replays_order:
                return  # nothing but that order, which is not played in this loop
            if self.growing is not None:
                await self.growing.play_async(call)
            elif self.plan.users is not None:
                await self.follow_async(self.book.script(self.plan.users, cuts=True), call)
            elif self.plan.budgets:
                await self.sampling.sample_async(call)
            else:
                await call()

    def perform_sync(self, call: Callable[..., object], benchmark: Any = None) -> None:
        """Play a synchronous test; its crowd plays in threads.

        Args:
            call: the body; keyword arguments override what the fixtures gave.
            benchmark: pytest-benchmark's fixture, if the body takes it: it repeats a part of the body by itself.
        """
        with self._under_way():
            if self.growing is not None:
                self.growing.play_sync(call)
            elif self.plan.users is not None:
                self._follow_sync(self.book.script(self.plan.users, cuts=False), call)
            elif self.plan.budgets:
                self.sampling.sample_sync(call, benchmark)
            else:
                call()

    async def follow_async(self, script: Script, call: Callable[..., Awaitable[object]]) -> None:
        """Play the scenes of a script in the running event loop."""

        async def scenario(user: User) -> None:
            AT_WORK.set(user)
            async with self.cast.visit(user):
                refuse_awaitable(await call(user=user))

        ignoring = False
        with ExitStack() as sweeps:
            for scene, watched in self._scenes(script):
                played: Callable[[User], Awaitable[object]] = scenario
                if scene.drivers:
                    played = partial(InTurn(scene.users, scene.drivers, scene.turn_s).play, scenario)
                    if not ignoring:
                        ignoring = sweeps.enter_context(lost_errors_ignored()) is None
                await anyio.sleep(scene.pause_s)
                with self._around.scene(scene.phase == "solo", scene.phase, len(scene.users)), watched, recording():
                    try:
                        self._runs = await crowd(played, scene.users, scene.limit_s, scene.rate, self.ledger.clock)
                    finally:  # nobody is left who could: a user may not even have had its turn
                        for driver in scene.drivers:
                            driver.let_go()
                    for run in self._runs[: len(scene.drivers)]:
                        forget_frames(run)
                    await self._around.settle_async(scene.users)

    def _follow_sync(self, script: Script, call: Callable[..., object]) -> None:
        def scenario(user: User) -> None:
            AT_WORK.set(user)
            with self.cast.visit(user):
                refuse_awaitable(call(user=user))

        for scene, watched in self._scenes(script):
            sleep(scene.pause_s)
            with self._around.scene(scene.phase == "solo", scene.phase, len(scene.users)), watched, recording():
                self._runs = crowd_in_threads(
                    scenario, scene.users, scene.limit_s, not self.plan.budgets, self.ledger.clock
                )
                self._around.settle_sync(scene.users)

    def _scenes(self, script: Script) -> Iterator[tuple[Scene, AbstractContextManager[None]]]:
        """Drive a script: hand out its scenes, and give it the runs that the caller has put into ``_runs``."""
        scene = next(script)
        watched: AbstractContextManager[None] = refuse_unawaited()
        while True:
            begun = perf_counter()
            self._scene = scene
            yield scene, watched
            self._scene = None
            self._phases[scene.phase] += len(scene.users)
            self._phase_s[scene.phase] += perf_counter() - begun
            watched = nullcontext()
            try:
                scene = script.send(self._runs)
            except StopIteration:
                return

    @property
    def replays_order(self) -> bool:
        """An order of steps is to be played again, and this test explores orders beside other phases.

        Raises:
            TokenError: it explores none.
        """
        if self.plan.users is None or self._replay is None or not self._replay.order:
            return False
        if self.plan.explore is None:
            raise TokenError(f"the replay token {self._replay} is of an exploration, and the marker has no explore=…")
        return True

    @property
    def replays_one(self) -> bool:
        """One order or one cut is to be played again, and nothing else."""
        return self._replay is not None and (bool(self._replay.order) or self._replay.point is not None)

    @property
    def explores(self) -> bool:
        """Orders of steps are still to be played."""
        is_wanted = self._replay is None or bool(self._replay.order)
        return self.plan.explore is not None and is_wanted and self.started and not self.findings

    def explore(self, search: Search) -> str:
        """Play a scenario on a loop of its own, in every order that is asked for.

        Returns:
            Which schedules were all played; empty if none, or if there is a finding.
        """
        from pytest_isolation.watching import watched

        token = self._replay if self._replay is not None and self._replay.order else None
        if token is not None and token.part != self._part:
            return ""  # what is to be played again is in another check of this test
        if token is not None:
            self.book.has_replayed = True
            search = replace(search, users=token.users or search.users)
        opened = watched(search.craft.open_backend, self.lendings)
        explorer = self._explorer(replace(search, craft=replace(search.craft, open_backend=opened)))
        begun = perf_counter()
        try:
            with recording():
                if token is None:
                    explorer.explore()
                else:
                    explorer.replay(token)
        finally:
            self._phases += explorer.done.runs
            self._phase_s["exploration"] += perf_counter() - begun
            self.book.notes += explorer.done.notes
        if search.remains and (token is None or not token.deviations):
            again = Token(self._seed, search.users, order="fifo", check=check_of((), ()), part=self._part)
            self.book.search_memory("exploration", [run_of(user) for user in explorer.users], str(again))
        return explorer.done.exhausted

    def _explorer(self, search: Search) -> Explorer:
        from pytest_isolation.exploring import Explorer

        require = self.book.require_evidence
        return Explorer(search, self.cast, self._judge, self._seed, require, self.lendings, self._part)

    def refuse_unplayed(self) -> None:
        """Refuse a test that would be green though what it was asked to check, or to play again, was not.

        Raises:
            NothingMeasured: it says what became of the checks.
            TokenError: what is to be played again is in none of them.
        """
        if self.checks is None:
            return
        self.checks.refuse_unfinished()
        if self.replays_one and not self.book.has_replayed:
            raise TokenError(
                f"the replay token {self._replay} plays one check of a test again, and is of none of this one's"
            )

    def judge_interrupted(self) -> None:
        """Judge what users have seen in a scene that did not get to its end: a leak is one all the same."""
        if self._scene is not None:
            runs = [run_of(user, ended=False) for user in self._scene.users]
            phase, self._scene = f"{self._scene.phase}, interrupted", None
            self._judge.look_for_canaries(self.book.evidence(phase, runs, str(Token(self._seed))), Story(()))

    def judge_late(self) -> None:
        """Judge what users observed after their run had ended: a listener went on, or a fixture was torn down."""
        if runs := self.cast.late_runs():
            phase = "test, after the run of its user had ended"
            self._judge.look_for_canaries(self.book.evidence(phase, runs, str(Token(self._seed))), Story(()))

    def judge_users(self, demand: bool = True) -> None:
        """Judge what users saw outside a scenario, and after it.

        Args:
            demand: somebody must have observed something.

        Raises:
            NothingMeasured: nobody did.
        """
        if runs := self.offstage.judge(demand):
            self._phases["test"] += runs
        self.judge_late()

    def include(self, other: Play, findings: bool, notes: bool = True) -> None:
        """Count what another play of the same test did, and keep its findings if they fail the test."""
        self._phases += other._phases
        for phase, seconds in other._phase_s.items():
            self._phase_s[phase] += seconds
        self._other_notes += [*other._judge.notes, *other.book.notes] if notes else []
        self.book.has_replayed |= other.book.has_replayed
        if findings:
            self.findings.extend(other.findings)

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, the gravest first."""
        return self._judge.findings

    @property
    def first_error(self) -> BaseException | None:
        """What the first user who failed was stopped by."""
        return self._judge.first_error

    @property
    def seconds(self) -> float:
        """How long the body has been played."""
        return self._sampled_s or (perf_counter() - self._begun if self.started else 0.0)

    @property
    def is_judged(self) -> bool:
        """Something was measured or played, so that there is a result to report."""
        return self.plan.is_judged or bool(self.offstage.players or self._phases or self.sampling.comparisons)

    def result(self, interrupted: bool = False) -> Result:
        """What is proven so far."""
        phases = (PhaseCount(phase, runs, self._phase_s[phase]) for phase, runs in self._phases.items())
        return Result(
            nodeid=self.plan.nodeid,
            command=self.plan.command,
            verdicts=self.ledger.verdicts(self.seconds) if self.started else (),
            findings=tuple(self.findings),
            phases=tuple(phases),
            seed=self._seed,
            interrupted=interrupted,
            notes=(
                *(*self._judge.notes, *self.book.notes, *self.sampling.notes, *self._other_notes),
                *(*settled_alone(self._around.alone), *self.lendings.notes),
                *(*cycles(self._around.cycles), *self.cast.tracked.notes),
            ),
            workers=self._workers,
            comparisons=tuple(self.sampling.comparisons),
            memory=tuple(self.growing.verdicts()) if self.growing is not None and self.started else (),
        )
