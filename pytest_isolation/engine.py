"""Plays one test: lets its users go through the phases, has oracles and budgets judge, and keeps what is proven.

What is played is a generator (``_script``) that knows no event loop; it asks for scenes and is given their runs.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import inf
from time import perf_counter, sleep
from typing import Any

import anyio

from pytest_isolation.awaited import refuse_awaitable, refuse_unawaited
from pytest_isolation.backend import Timings
from pytest_isolation.errors import IsolationWarning, MarkerError, NothingMeasured
from pytest_isolation.judge import Extensions, Judge
from pytest_isolation.latency.arrivals import Pace, sample_closed, sample_paced
from pytest_isolation.latency.decide import Step, least_to_pass
from pytest_isolation.latency.noise import Clock
from pytest_isolation.latency.otel import listening
from pytest_isolation.latency.rounds import take_rounds
from pytest_isolation.latency.sampler import Course, Limits, sample_async, sample_sync
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.markers import Plan
from pytest_isolation.model import Comparison, Evidence, Finding, PhaseCount, Result, Run
from pytest_isolation.phases.crowd import crowd, crowd_in_threads, most_at_once
from pytest_isolation.phases.token import Token
from pytest_isolation.settings import Settings
from pytest_isolation.users import canary
from pytest_isolation.users.cast import Cast, User, run_of
from pytest_isolation.users.transcript import Story, leaves

# Two runs alone may agree by accident; where a run takes this long together, two must do.
_SOLOS, _LEAST_SOLOS, _SOLOS_S = 5, 2, 5.0
# A crowd that takes this much longer than its users would one after another is stuck.
_PATIENCE, _LEAST_PATIENCE_S = 3, 30.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Who plays next, and how."""

    phase: str
    users: Sequence[User]
    limit_s: float = inf
    rate: float | None = None
    pause_s: float = 0.0


_NO_CAUSE = "why it was over budget cannot be said, because the body failed when it was run again to see"

Script = Generator[Scene, list[Run], None]


@dataclass(slots=True)
class Checks:
    """How often a test asked for a check from code, and how many of them got to their end."""

    asked: int = 0
    ended: int = 0
    cancelled: int = 0

    def refuse_unfinished(self) -> None:
        """Refuse a test that would be green without having been checked.

        Raises:
            NothingMeasured: it says what became of the checks.
        """
        if not self.asked:
            raise NothingMeasured("the test takes `isolation`, and never called it: await isolation.check(scenario)")
        if self.cancelled:
            raise NothingMeasured("isolation.check was cancelled before it had got to its end, so it proved nothing")
        if self.ended < self.asked:
            raise NothingMeasured(
                f"isolation.check was called {self.asked} times, and {self.asked - self.ended} of them did not get to "
                "the end before the test did: await isolation.check(scenario)"
            )


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
    ) -> None:
        self.plan = plan
        self.cast = cast
        self.ledger = Ledger(plan.budgets, clock=clock)
        self.clock = self.ledger.clock
        self.limits = Limits(settings.sampling_seconds, settings.max_samples, tell=tell)
        self.started = False
        self.players: list[User] = []
        self.bystander: User | None = None
        self.checks: Checks | None = None
        self._seed = seed
        self._workers = workers
        self._runs: list[Run] = []
        self._judge = Judge(extensions or Extensions())
        self._phases: Counter[str] = Counter()
        self._phase_s: defaultdict[str, float] = defaultdict(float)
        self._other_notes: list[str] = []
        self.comparisons: list[Comparison] = []
        self._scene: Scene | None = None
        self._sources: list[Timings] = []
        self._begun = self._sampled_s = 0.0

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self.started, self._begun = True, perf_counter()
        try:
            with listening(self.ledger):
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
        source.listen(lambda name, seconds: self.ledger.add(seconds, name))

    async def perform_async(self, call: Callable[..., Awaitable[object]]) -> None:
        """Play an asynchronous test in the running event loop.

        Args:
            call: the body; keyword arguments override what the fixtures gave.
        """
        with self._under_way():
            if self.plan.users is not None:
                await self.follow_async(self.script(self.plan.users), call)
            elif self.plan.budgets:
                await self._sample(call)
            else:
                await call()

    async def _sample(self, call: Callable[[], Awaitable[object]]) -> None:
        load = self.plan.load
        if load.rate is not None:
            await sample_paced(call, self.ledger, self.limits, Pace(load.rate, load.users))
            return  # without the load a traced run would tell another story
        if load.concurrency is not None:
            await sample_closed(call, self.ledger, self.limits, load.concurrency)
        else:
            await sample_async(call, self.ledger, self.limits)
        await self.explain(call, self.ledger)

    async def explain(self, call: Callable[[], Awaitable[object]], ledger: Ledger, span: str | None = None) -> None:
        """See why an asynchronous body missed its budget; whatever comes of that, the verdict stays.

        Args:
            call: the body, or the part of it that was sampled.
            ledger: what it was judged by.
            span: the part that it is.
        """
        if ledger.has_failed(span) and span not in self.ledger.measured:
            from pytest_isolation.latency.tracing import Unrepeatable, explain_async

            try:
                ledger.causes[span] = await explain_async(call, ledger.clock, self.plan.load.concurrency or 1)
            except Unrepeatable as error:
                self._other_notes.append(f"{_NO_CAUSE}: {error}")

    def explain_sync(self, call: Callable[[], object], ledger: Ledger, span: str | None = None) -> None:
        """The same for a synchronous body."""
        if ledger.has_failed(span) and span not in self.ledger.measured:
            from pytest_isolation.latency.tracing import Unrepeatable, explain_sync

            try:
                ledger.causes[span] = explain_sync(call, ledger.clock)
            except Unrepeatable as error:
                self._other_notes.append(f"{_NO_CAUSE}: {error}")

    def perform_sync(self, call: Callable[..., object], benchmark: Any = None) -> None:
        """Play a synchronous test; its crowd plays in threads.

        Args:
            call: the body; keyword arguments override what the fixtures gave.
            benchmark: pytest-benchmark's fixture, if the body takes it: it repeats a part of the body by itself.
        """
        with self._under_way():
            if self.plan.users is not None:
                self._follow_sync(self.script(self.plan.users), call)
            elif self.plan.budgets and benchmark is not None:
                call()
                self._other_notes += filter(None, [take_rounds(benchmark, self.ledger)])
            elif self.plan.budgets:
                sample_sync(call, self.ledger, self.limits)
                self.explain_sync(call, self.ledger)
            else:
                call()

    async def follow_async(self, script: Script, call: Callable[..., Awaitable[object]]) -> None:
        """Play the scenes of a script in the running event loop."""

        async def scenario(user: User) -> None:
            refuse_awaitable(await call(user=user))

        for scene, watched in self._scenes(script):
            await anyio.sleep(scene.pause_s)
            with watched:
                self._runs = await crowd(scenario, scene.users, scene.limit_s, scene.rate, self.ledger.clock)

    def _follow_sync(self, script: Script, call: Callable[..., object]) -> None:
        def scenario(user: User) -> None:
            refuse_awaitable(call(user=user))

        for scene, watched in self._scenes(script):
            sleep(scene.pause_s)
            with watched:
                self._runs = crowd_in_threads(
                    scenario, scene.users, scene.limit_s, not self.plan.budgets, self.ledger.clock
                )

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

    def script(self, users: int) -> Script:
        """Some alone, then all at once, again and again until the budgets are decided, then one alone.

        Only what users saw before the first crowd is taken for what a user alone sees: a crowd may do lasting damage.

        Args:
            users: how many make the crowd.
        """
        token = str(Token(self._seed, users))
        solos: list[Evidence] = []
        yield from self._solos(solos, token)
        self._require_evidence(solos)
        for evidence in solos:  # what one left behind may reach the next without any crowd
            self._judge.look_for_canaries(evidence, self._judge.learn(solos[:1]))
        if self.findings:
            return
        story = self._judge.learn(solos)
        alone_s = max(run.seconds for evidence in solos for run in evidence.runs)
        patience_s = max(_LEAST_PATIENCE_S, _PATIENCE * users * alone_s) + (users / (self.plan.load.rate or inf))
        yield from self._crowds(users, story, patience_s, token)
        if not self.findings:
            runs = yield Scene("solo", self.cast.users(1, "solo"), patience_s)
            self._judge.hear(self._evidence("solo, after the crowd", runs, token), story)

    def _solos(self, solos: list[Evidence], replay: str) -> Script:
        """Let users play one after another, and add what they saw; one that fails is an ordinary failure."""
        begun = perf_counter()
        for user in self.cast.users(_SOLOS, "solo"):
            if len(solos) >= _LEAST_SOLOS and perf_counter() - begun > _SOLOS_S:
                break
            [run] = runs = yield Scene("solo", [user])
            if run.error is not None:
                self._judge.look_for_canaries(self._evidence("solo", runs, replay), Story(()))
                if isinstance(run.error, Exception):
                    run.error.add_note(f"pytest-isolation: {run.user} was alone, so this says nothing of isolation yet")
                raise run.error
            solos.append(self._evidence("solo, one user after another", runs, replay))

    def _crowds(self, users: int, story: Story, patience_s: float, replay: str) -> Script:
        """Let crowds play; where there are budgets, the first one warms up."""
        phase = f"crowd of {users} user{'s' if users > 1 else ''}"
        rest: Course | None = None
        pause_s = 0.0
        while rest is None or rest.step is not Step.STOP:
            runs = yield Scene(phase, self.cast.users(users), patience_s, self.plan.load.rate, pause_s)
            self._judge.hear(self._evidence(phase, runs, replay), story)
            if rest is None and self.plan.load.rate is None:  # paced arrivals are meant to be apart
                self._warn_of_a_queue(runs)
            if self.findings or not self.plan.budgets:
                return
            if rest is None:
                self.ledger.clear()
                rest = Course(self.ledger, self.limits)
            else:
                self._take(runs)
                rest.begun = rest.ended = rest.begun + len(runs)
            pause_s = 0.0
            if rest.step is Step.CONFIRM:
                rest.confirm()
                pause_s = self.limits.pause_s

    def _take(self, runs: Iterable[Run]) -> None:
        if not self.ledger.self_timed:
            for run in runs:
                self.ledger.add(run.seconds, machine_s=run.machine_s)

    def _warn_of_a_queue(self, runs: Sequence[Run]) -> None:
        if len(runs) > 1 and all(run.ended for run in runs) and most_at_once(runs) < 2:
            self._warn(
                "no two of the users were ever under way at the same time: each ran to its end without waiting for "
                "anything. What one leaves behind for the next is found so, what needs two at once is not. Drive the "
                "backend over a socket, or let what it waits for really wait"
            )

    def _warn(self, text: str) -> None:
        warnings.warn(f"{self.plan.nodeid}: {text}", IsolationWarning, stacklevel=2)

    def _evidence(self, phase: str, runs: Iterable[Run], replay: str) -> Evidence:
        return self.cast.evidence(f"{phase}, seed {self._seed}", runs, replay)

    def _require_evidence(self, solos: Sequence[Evidence]) -> None:
        """Refuse a scenario that could not show a leak; warn of one that could hardly."""
        observed = [run.observations for evidence in solos for run in evidence.runs]
        if not any(observed):
            raise NothingMeasured(
                "the scenario observed nothing, so no leak could have been seen. "
                "Say what the user sees: user.observe(await client.get(…))"
            )
        if not self.cast.planted:
            raise NothingMeasured(
                "the scenario planted nothing: without user.id, user.secret() or user.number() in what it sends, "
                "all users do the same, and nobody could tell whose an answer is"
            )
        if not any(_holds_own(run) for evidence in solos for run in evidence.runs):
            self._warn(
                "a user who is alone never sees one of its own secrets, so a leak of somebody else's would hardly "
                "show either. Observe something that contains user.id or user.secret()"
            )

    def judge_interrupted(self) -> None:
        """Judge what users have seen in a scene that did not get to its end: a leak is one all the same."""
        if self._scene is not None:
            runs = [run_of(user, ended=False) for user in self._scene.users]
            phase, self._scene = f"{self._scene.phase}, interrupted", None
            self._judge.look_for_canaries(self._evidence(phase, runs, str(Token(self._seed))), Story(()))

    def judge_late(self) -> None:
        """Judge what users observed after their run had ended: a listener went on, or a fixture was torn down."""
        if runs := self.cast.late_runs():
            phase = "test, after the run of its user had ended"
            self._judge.look_for_canaries(self._evidence(phase, runs, str(Token(self._seed))), Story(()))

    def judge_users(self, demand: bool = True) -> None:
        """Judge what users saw outside a scenario, in a test that plays several by itself: nobody a secret of another.

        Args:
            demand: somebody must have observed something.

        Raises:
            NothingMeasured: nobody did.
        """
        alone = run_of(self.bystander).observations if self.bystander else ()
        everybody = [*self.players, *([self.bystander] if self.bystander else ())]
        runs = [run for run in map(run_of, everybody) if run.observations]
        if demand and self.players and not runs:
            raise NothingMeasured(
                "none of the users observed anything, so no leak could have been seen. "
                "Say what they see: alice.observe(await …)"
            )
        if demand and alone and not self.players:
            self._warn(
                "`user` observed something, but nobody else played: without @pytest.mark.isolation only a leak from "
                "an earlier test could be seen"
            )
        if runs:
            self._phases["test"] += len(self.players) or len(runs)
            self._judge.look_for_canaries(self._evidence("test", runs, str(Token(self._seed))), Story(()))
        self.judge_late()

    def include(self, other: Play, findings: bool) -> None:
        """Count what another play of the same test did, and keep its findings if they fail the test."""
        self._phases += other._phases
        for phase, seconds in other._phase_s.items():
            self._phase_s[phase] += seconds
        self._other_notes += other._judge.notes
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
        return self.plan.is_judged or bool(self.players or self._phases or self.comparisons)

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
            notes=(*self._judge.notes, *self._other_notes),
            workers=self._workers,
            comparisons=tuple(self.comparisons),
        )


def _holds_own(run: Run) -> bool:
    texts = (canary.searchable(leaf.value) for o in run.observations for leaf in leaves(o.value))
    hits = (hit for text in texts if text is not None for hit in canary.find(text))
    return any(hit.owner == run.number for hit in hits)


def refuse_unsupported(plan: Plan, settings: Settings) -> None:
    """Refuse a quantile that the sample limit can never prove.

    Raises:
        MarkerError: it names the number of samples that it takes.
    """
    for budget in plan.budgets:
        least = least_to_pass(budget.quantile)
        if least > settings.max_samples:
            raise MarkerError(
                f"latency: a budget on {budget.name} takes at least {least:,} samples, and at most "
                f"{settings.max_samples:,} are taken; run with --isolation-max-samples={least}, or judge a lower one"
            )
