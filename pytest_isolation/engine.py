"""Plays one test: lets its users go through the phases, has oracles and budgets judge, and keeps what is proven.

What is played is a generator (``_script``) that knows no event loop; it asks for scenes and is given their runs.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from math import inf
from time import perf_counter, sleep

import anyio

from pytest_isolation.awaited import refuse_awaitable, refuse_unawaited
from pytest_isolation.errors import IsolationWarning, MarkerError, NothingMeasured, PluginFault
from pytest_isolation.latency.decide import Step, least_to_pass
from pytest_isolation.latency.sampler import Limits, sample_async, sample_paced, sample_sync
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.markers import Plan
from pytest_isolation.model import Evidence, Finding, Kind, Observation, PhaseCount, Result, Run
from pytest_isolation.oracles.canaries import foreign_canaries
from pytest_isolation.oracles.endings import bad_endings
from pytest_isolation.oracles.interference import departures
from pytest_isolation.phases.crowd import crowd, crowd_in_threads
from pytest_isolation.phases.token import Token
from pytest_isolation.settings import Settings
from pytest_isolation.users import canary
from pytest_isolation.users.cast import Cast, User, run_of
from pytest_isolation.users.transcript import Story, leaves

Oracle = Callable[[Evidence, Story], Iterable[Finding]]

_SOLOS = 2
_MORE_SOLOS = 3
# A crowd that takes this much longer than its users would one after another is stuck.
_PATIENCE, _LEAST_PATIENCE_S = 3, 30.0


@dataclass(frozen=True, slots=True)
class Extensions:
    """What other plugins and conftest files add (``hookspecs``).

    Attributes:
        oracles: further oracles.
        normalise: what an observation reads for the comparison with the solo runs.
        allow: the reason why a finding is no fault, None if it is one.
    """

    oracles: tuple[Oracle, ...] = ()
    normalise: Callable[[Observation], Observation] | None = None
    allow: Callable[[Finding], str | None] = field(default=lambda _finding: None)


@dataclass(frozen=True, slots=True)
class Scene:
    """Who plays next, and how."""

    phase: str
    users: Sequence[User]
    limit_s: float = inf
    rate: float | None = None
    pause_s: float = 0.0


Script = Generator[Scene, list[Run], None]


class Play:
    """One test on its way through its plan.

    Args:
        plan: what its markers ask for.
        settings: what the person who runs the tests asked for.
        cast: where its users come from.
        seed: the session's, for replay tokens.
        extensions: further oracles and exceptions.
    """

    def __init__(
        self, plan: Plan, settings: Settings, cast: Cast, seed: int, extensions: Extensions | None = None
    ) -> None:
        self.plan = plan
        self.cast = cast
        self.ledger = Ledger(plan.budgets)
        self.limits = Limits(settings.sampling_seconds, settings.max_samples)
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.first_error: BaseException | None = None
        self.started = False
        self.players: list[User] = []
        self._seed = seed
        self._runs: list[Run] = []
        self._extensions = extensions or Extensions()
        self._phases: Counter[str] = Counter()
        self._phase_s: defaultdict[str, float] = defaultdict(float)
        self._begun = self._sampled_s = 0.0

    async def perform_async(self, call: Callable[..., Awaitable[object]]) -> None:
        """Play an asynchronous test in the running event loop.

        Args:
            call: the body; keyword arguments override what the fixtures gave.
        """
        self._start()
        try:
            if self.plan.users is not None:
                await self.follow_async(self.script(self.plan.users), call)
            elif self.plan.rate is not None:
                await sample_paced(call, self.ledger, self.limits, self.plan.rate)
            elif self.plan.budgets:
                await sample_async(call, self.ledger, self.limits)
            else:
                await call()
        finally:
            self._sampled_s = perf_counter() - self._begun

    def perform_sync(self, call: Callable[..., object]) -> None:
        """Play a synchronous test; its crowd plays in threads.

        Args:
            call: the body; keyword arguments override what the fixtures gave.
        """
        self._start()
        try:
            if self.plan.users is not None:
                self._follow_sync(self.script(self.plan.users), call)
            elif self.plan.budgets:
                sample_sync(call, self.ledger, self.limits)
            else:
                call()
        finally:
            self._sampled_s = perf_counter() - self._begun

    def _start(self) -> None:
        self.started, self._begun = True, perf_counter()

    async def follow_async(self, script: Script, call: Callable[..., Awaitable[object]]) -> None:
        """Play the scenes of a script in the running event loop."""

        async def scenario(user: User) -> None:
            refuse_awaitable(await call(user=user))

        for scene, watched in self._scenes(script):
            await anyio.sleep(scene.pause_s)
            with watched:
                self._runs = await crowd(scenario, scene.users, scene.limit_s, scene.rate)

    def _follow_sync(self, script: Script, call: Callable[..., object]) -> None:
        def scenario(user: User) -> None:
            refuse_awaitable(call(user=user))

        for scene, watched in self._scenes(script):
            sleep(scene.pause_s)
            with watched:
                self._runs = crowd_in_threads(scenario, scene.users, scene.limit_s)

    def _scenes(self, script: Script) -> Iterator[tuple[Scene, AbstractContextManager[None]]]:
        """Drive a script: hand out its scenes, and give it the runs that the caller has put into ``_runs``."""
        scene = next(script)
        watched: AbstractContextManager[None] = refuse_unawaited()
        while True:
            begun = perf_counter()
            yield scene, watched
            self._phases[scene.phase] += len(scene.users)
            self._phase_s[scene.phase] += perf_counter() - begun
            watched = nullcontext()
            try:
                scene = script.send(self._runs)
            except StopIteration:
                return

    def script(self, users: int) -> Script:
        """Solo twice, then the crowd, again and again until the budgets are decided.

        Args:
            users: how many make the crowd.
        """
        token = str(Token(users, self._seed))
        solos: list[Evidence] = []
        yield from self._solos(solos, _SOLOS, token)
        self._require_evidence(solos)
        for evidence in solos:  # what one left behind may reach the next without any crowd
            self._keep(_ask(foreign_canaries, evidence, self._learn(solos[:1])), evidence.runs)
        if self.findings:
            return
        story = self._learn(solos)
        alone_s = max(run.seconds for evidence in solos for run in evidence.runs)
        patience_s = max(_LEAST_PATIENCE_S, _PATIENCE * users * alone_s) + (users / (self.plan.rate or inf))
        pause_s, deadline = 0.0, perf_counter() + self.limits.seconds
        phase = f"crowd of {users} user{'s' if users > 1 else ''}"
        while True:
            runs = yield Scene(phase, self.cast.users(users), patience_s, self.plan.rate, pause_s)
            evidence = self._evidence(phase, runs, token)
            findings = self._judge(evidence, story)
            if any(finding.kind is Kind.DIFFERENT for finding in findings):
                # Two runs alone may have agreed by accident: learn more before anybody is accused.
                yield from self._solos(solos, _MORE_SOLOS, token)
                story = self._learn(solos)
                findings = self._judge(evidence, story)
            self._keep(findings, runs)
            for run in runs:
                if run.ended and run.error is None:
                    self.ledger.add(run.seconds)
            step = self.ledger.step
            if self.findings or step is Step.STOP:
                return
            if step is Step.CONFIRM:
                self.ledger.confirm()
                pause_s, deadline = self.limits.pause_s, perf_counter() + self.limits.seconds
            elif perf_counter() >= deadline or self.ledger.taken >= self.limits.samples:
                return
            else:
                pause_s = 0.0

    def _solos(self, solos: list[Evidence], count: int, replay: str) -> Script:
        """Let users play one after another, and add what they saw; one that fails is an ordinary failure."""
        for _ in range(count):
            [run] = runs = yield Scene("solo", self.cast.users(1, "solo"))
            if run.error is not None:
                if isinstance(run.error, Exception):
                    run.error.add_note(f"pytest-isolation: {run.user} was alone, so this says nothing of isolation yet")
                raise run.error
            solos.append(self._evidence("solo, one user after another", runs, replay))

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
            warnings.warn(
                f"{self.plan.nodeid}: a user who is alone never sees one of its own secrets, so a leak of somebody "
                "else's would hardly show either. Observe something that contains user.id or user.secret()",
                IsolationWarning,
                stacklevel=2,
            )

    def judge_users(self) -> None:
        """Judge what the users of the ``users`` fixture saw: nobody a secret of another."""
        runs = [run_of(user, None, True, 0.0) for user in self.players]
        if not any(run.observations for run in runs):
            raise NothingMeasured(
                "none of the users observed anything, so no leak could have been seen. "
                "Say what they see: alice.observe(await …)"
            )
        self._phases["test"] += len(runs)
        self._keep(_ask(foreign_canaries, self._evidence("test", runs, ""), Story(())), runs)

    def _learn(self, solos: Iterable[Evidence]) -> Story:
        return Story([self._normalised(evidence) for evidence in solos])

    def _judge(self, evidence: Evidence, story: Story) -> list[Finding]:
        findings = [*_ask(foreign_canaries, evidence, story), *_ask(bad_endings, evidence, story)]
        leaked = {finding.user for finding in findings if finding.kind is Kind.LEAK}
        # Whoever received a secret saw something else than alone: that says nothing new.
        departed = _ask(departures, self._normalised(evidence), story)
        findings += [finding for finding in departed if finding.user not in leaked]
        for oracle in self._extensions.oracles:
            findings += _ask(oracle, evidence, story)
        return findings

    def _normalised(self, evidence: Evidence) -> Evidence:
        normalise = self._extensions.normalise
        if normalise is None:
            return evidence
        runs = (replace(run, observations=tuple(map(normalise, run.observations))) for run in evidence.runs)
        return replace(evidence, runs=tuple(runs))

    def _keep(self, findings: Iterable[Finding], runs: Sequence[Run]) -> None:
        for finding in findings:
            reason = self._extensions.allow(finding)
            if reason is None:
                self.findings.append(finding)
            else:
                self.notes.append(f"allowed: {finding.summary} ({reason})")
        self.findings.sort(key=lambda finding: list(Kind).index(finding.kind))
        if any(finding.kind is Kind.FAILED for finding in self.findings) and self.first_error is None:
            self.first_error = next((run.error for run in runs if run.error is not None), None)

    def include(self, other: Play, findings: bool) -> None:
        """Count what another play of the same test did, and keep its findings if they fail the test."""
        self._phases += other._phases
        for phase, seconds in other._phase_s.items():
            self._phase_s[phase] += seconds
        self.notes += other.notes
        if findings:
            self.findings += other.findings

    @property
    def is_judged(self) -> bool:
        """Something was measured or played, so that there is a result to report."""
        return self.plan.is_judged or bool(self.players or self._phases)

    def result(self, interrupted: bool = False) -> Result:
        """What is proven so far."""
        phases = (PhaseCount(phase, runs, self._phase_s[phase]) for phase, runs in self._phases.items())
        seconds = self._sampled_s or (perf_counter() - self._begun)
        return Result(
            nodeid=self.plan.nodeid,
            command=self.plan.command,
            verdicts=self.ledger.verdicts(seconds) if self.started else (),
            findings=tuple(self.findings),
            phases=tuple(phases),
            seed=self._seed,
            interrupted=interrupted,
            notes=tuple(self.notes),
        )


def _ask(oracle: Oracle, evidence: Evidence, story: Story) -> list[Finding]:
    """The findings of an oracle; one that breaks is not the test's fault, and not silent either."""
    try:
        return list(oracle(evidence, story))
    except Exception as error:
        name = getattr(oracle, "__qualname__", repr(oracle))
        said = f"{type(error).__name__}: {error}"
        raise PluginFault(f"the oracle {name} failed: {said}. This is not the test's fault") from error


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
