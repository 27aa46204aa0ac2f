"""What is played in a test of isolation: a generator that knows no event loop, asks for scenes and is given their runs.

Some users alone, a crowd, one alone, then users who are cut at every suspension point, each with another one after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from math import inf
from time import perf_counter

from pytest_isolation.errors import IsolationError, IsolationWarning, NothingMeasured, TokenError
from pytest_isolation.judge import Judge
from pytest_isolation.latency.decide import Step
from pytest_isolation.latency.sampler import Course, Limits
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.markers import Plan
from pytest_isolation.model import Aftermath, Confidence, Evidence, Finding, Kind, Run
from pytest_isolation.oracles.retention import left_in_memory, stores
from pytest_isolation.phases.crowd import most_at_once
from pytest_isolation.phases.driver import Driver
from pytest_isolation.phases.scene import Scene, Script
from pytest_isolation.phases.surroundings import Surroundings
from pytest_isolation.phases.sweeps import MORE_PATIENCE, Sweep
from pytest_isolation.phases.token import Token
from pytest_isolation.users import canary
from pytest_isolation.users.cast import Cast, User
from pytest_isolation.users.remains import remains
from pytest_isolation.users.story import Story
from pytest_isolation.users.transcript import leaves

# Two runs alone may agree by accident; where a run takes this long together, two must do.
_SOLOS, _LEAST_SOLOS, _SOLOS_S = 5, 2, 5.0
# A crowd that takes this much longer than its users would one after another is stuck.
_PATIENCE, _LEAST_PATIENCE_S = 3, 30.0
# After a cut the one who comes next is alone; there may be many, so less patience must do. Who starves gets more.
_ALONE_PATIENCE, _ALONE_PATIENCE_S = 20, 5.0
_ASKED_S = 60.0
# So often is played again what showed a difference.
_LEAST_AGAIN, _MOST_AGAIN, _MOST_USERS_AGAIN = 2, 10, 2000
_TWICE = (
    ". Those before ended well: a scenario is played again and again on the same fixtures, by users of a crowd and by "
    "such as are cut, so what it makes has to be the user's own. Name it by user.id, or let the scenario remove it"
)
# Enough to use whatever the cut users have given back to a pool.
_AFTERWARDS = 10


class Playbook:
    """The phases of one test.

    Args:
        plan: what its markers ask for.
        cast: where its users come from.
        seed: the session's, for replay tokens.
        judge: hears what the users saw.
        around: knows what they left behind.
        ledger: takes how long they took.
        limits: how far a budget is sampled, and how long a sweep takes that nobody asked for.
        replay: what is to be played again; None plays all.
        part: which of several checks of one test this is; None where there is one.

    Attributes:
        notes: what a reader should know besides.
        has_replayed: what is to be played again was found here.
    """

    def __init__(
        self,
        plan: Plan,
        cast: Cast,
        seed: int,
        judge: Judge,
        around: Surroundings,
        ledger: Ledger,
        limits: Limits,
        replay: Token | None = None,
        part: int | None = None,
    ) -> None:
        self.notes: list[str] = []
        self.has_replayed = False
        self._part = part
        self._first = Driver()
        self._plan = plan
        self._cast = cast
        self._seed = seed
        self._judge = judge
        self._around = around
        self._ledger = ledger
        self._limits = limits
        self._replay = replay
        self._story = Story(())
        self._crowd: tuple[Run, ...] = ()

    def script(self, users: int, cuts: bool) -> Script:
        """Some alone, then all at once, again and again until the budgets are decided, then one alone, then sweeps.

        Only what users saw before the first crowd is taken for what a user alone sees: a crowd may do lasting damage.

        Args:
            users: how many make the crowd.
            cuts: the scenario is a coroutine, so that it can be cut.
        """
        token = str(Token(self._seed, users))
        again = self._replay if self._replay is not None and self._replay.point is not None else None
        self.has_replayed = again is not None and again.part == self._part
        solos: list[Evidence] = []
        yield from self._solos(solos, token, cuts and self._plan.cancel is not False)
        self.require_evidence(solos)
        for evidence in solos:  # what one left behind may reach the next without any crowd
            self._judge.look_for_canaries(evidence, self._judge.learn(solos[:1]))
        if self._judge.findings:
            return
        self._story = self._judge.learn(solos)
        alone_s = max(run.seconds for evidence in solos for run in evidence.runs)
        patience_s = max(_LEAST_PATIENCE_S, _PATIENCE * users * alone_s) + (users / (self._plan.load.rate or inf))
        alone_patience_s = max(_ALONE_PATIENCE_S, _ALONE_PATIENCE * alone_s, self._limits.seconds)
        if again is not None:
            if self.has_replayed:
                yield from self._play_again(again, alone_patience_s)
            return  # what is to be played again is in another check of this test
        yield from self._crowds(users, patience_s, token)
        self.search_memory("crowd", self._crowd, token)
        if not self._judge.findings:
            scene = Scene("solo", self._cast.users(1, "solo"), patience_s)
            yield from self._judged(scene, "solo", "solo, after the crowd", token)
        if not self._judge.findings and cuts:
            yield from self._sweeps(users, alone_patience_s)

    def search_memory(self, after_what: str, runs: Sequence[Run], replay: str) -> None:
        """Look for what is still in memory of those who have played, without knowing who keeps what.

        Args:
            after_what: the phase that has ended.
            runs: of its users.
            replay: the token that plays it again.
        """
        if self._judge.findings or self._plan.heap is False:
            return
        after = Aftermath(held=remains(self._cast))
        evidence = replace(self.evidence(f"memory, after the {after_what}", runs, replay), after=after)
        self._judge.consider(left_in_memory(evidence, strict=bool(self._plan.heap)))
        for what, path in () if self._plan.heap else stores(evidence):
            reason = self._judge.may_keep(path)
            allowed, because = ("", "") if reason is None else ("allowed: ", f" ({reason})")
            self.note(f"{allowed}still reachable after the {after_what}: {what}: {path}{because}")

    def _sweeps(self, users: int, patience_s: float) -> Script:
        """Cut users at every suspension point, then let some play at once with whatever those have left behind."""
        plan, sweeps, mixed = self._plan, list[Sweep](), self._is_mixed
        if plan.cancel is not False:
            limit_s = _ASKED_S if plan.cancel else self._limits.seconds
            met = tuple(self._first.points)
            sweeps.append(Sweep(self._seed, patience_s, limit_s, None, bool(plan.cancel), self._part, met, mixed))
        sweeps += [
            Sweep(self._seed, patience_s, _ASKED_S, fault, True, self._part, anonymous=mixed) for fault in plan.faults
        ]
        for sweep in sweeps:
            yield from sweep.play(self)
            if self._judge.findings:
                return
        if sweeps:
            count = min(users, _AFTERWARDS)
            scene = Scene("crowd after the sweep", self._cast.users(count), MORE_PATIENCE * patience_s)
            phase = f"crowd of {count}, after users were cut at every suspension point"
            yield from self._judged(scene, "user", phase, str(Token(self._seed, users)))

    def _play_again(self, token: Token, patience_s: float) -> Script:
        fault = next((fault for fault in self._plan.faults if fault.name == token.fault), None)
        if token.fault and fault is None:
            raise TokenError(f"the replay token {token} raises {token.fault}, and the marker names no such fault")
        sweep = Sweep(self._seed, patience_s, _ASKED_S, fault, True, self._part, anonymous=self._is_mixed)
        yield from sweep.replay(self, token)

    @property
    def _is_mixed(self) -> bool:
        """Some users have credentials, and some have none."""
        return self._plan.anonymous not in (0.0, 1.0)

    def users(self, count: int, stem: str = "user", anonymous: bool | None = None) -> list[User]:
        """More users; all of them without credentials, or none, if that is said."""
        return self._cast.users(count, stem, anonymous)

    def look(self, phase: str, runs: Sequence[Run], replay: str, whole: bool = True) -> list[Finding]:
        """What oracles find in runs; not ``whole``, only secrets of others count."""
        return self._judge.look(self.evidence(phase, runs, replay), self._story, whole)

    def keep(self, findings: Sequence[Finding]) -> None:
        """Report findings."""
        self._judge.keep(findings)

    def note(self, text: str) -> None:
        """Say what a reader should know besides."""
        self.notes.append(text)

    def _solos(self, solos: list[Evidence], replay: str, cuts: bool) -> Script:
        """Let users play one after another, and add what they saw; one that fails is an ordinary failure.

        Where users will be cut, the points of the very first run are noted: some of them may never come again.
        """
        begun, least = perf_counter(), _LEAST_SOLOS * (2 if self._is_mixed else 1)
        for user in self._cast.users(_SOLOS, "solo"):
            if len(solos) >= least and perf_counter() - begun > _SOLOS_S:
                break
            [run] = runs = yield Scene("solo", [user], drivers=[self._first] if cuts and not solos else [])
            if run.error is not None:
                for evidence in (*solos, self.evidence("solo", runs, replay)):
                    self._judge.look_for_canaries(evidence, Story(()))
                if isinstance(run.error, Exception) and not isinstance(run.error, IsolationError):
                    run.error.add_note(
                        f"pytest-isolation: {run.user} was alone, so this says nothing of isolation yet"
                        + _TWICE * bool(solos)
                    )
                raise run.error
            solos.append(self.evidence("solo, one user after another", runs, replay))
            if len(solos) >= least and solos[-1].after.mishaps:  # a pool that runs dry would keep the next one waiting
                break

    def _judged(self, scene: Scene, stem: str, phase: str, replay: str) -> Generator[Scene, list[Run], list[Run]]:
        """Play a scene and judge it; what does not prove itself, and is not there again, is only suspected.

        Args:
            scene: what is played; when it is played again, by others.
            stem: what those are called.
            phase: in words.
            replay: the token.
        """
        runs = yield scene
        evidence = self.evidence(phase, runs, replay)
        found = self._judge.look(evidence, self._story)
        doubtful = {one.kind for one in found if one.confidence is Confidence.DIFFERENT}
        is_proven = any(one.kind is Kind.LEAK for one in found) or not all(run.ended for run in runs)
        if doubtful and not is_proven:
            later = yield from self._again(scene, stem, phase, replay, doubtful)
            once = doubtful - {one.kind for one in later}
            found = [replace(one, confidence=Confidence.SUSPECTED) if one.kind in once else one for one in found]
            found += [one for one in later if one.kind is Kind.LEAK]
        self._judge.keep([one for one in found if not self._judge.allows(one)], evidence)
        return runs

    def _again(
        self, scene: Scene, stem: str, phase: str, replay: str, kinds: set[Kind]
    ) -> Generator[Scene, list[Run], list[Finding]]:
        """What shows when a scene is played again, until all that is in doubt was there again.

        A race shows in some crowds and not in others, so as many play as there is time for, and two at least.
        """
        found, begun, users = list[Finding](), perf_counter(), len(scene.users)
        for number in range(max(_LEAST_AGAIN, min(_MOST_AGAIN, _MOST_USERS_AGAIN // users))):
            if number >= _LEAST_AGAIN and perf_counter() - begun > self._limits.seconds:
                break
            runs = yield replace(scene, users=self._cast.users(users, stem))
            found += self._judge.look(self.evidence(f"{phase}, played again", runs, replay), self._story)
            if kinds <= {one.kind for one in found} or not all(run.ended for run in runs):
                break
        return found

    def _crowds(self, users: int, patience_s: float, replay: str) -> Script:
        """Let crowds play; where there are budgets, the first one warms up."""
        phase = f"crowd of {users} user{'s' if users > 1 else ''}"
        rest: Course | None = None
        pause_s = 0.0
        while rest is None or rest.step is not Step.STOP:
            scene = Scene(phase, self._cast.users(users), patience_s, self._plan.load.rate, pause_s)
            runs = yield from self._judged(scene, "user", phase, replay)
            self._crowd = tuple(runs)
            if rest is None and self._plan.load.rate is None:  # paced arrivals are meant to be apart
                self._warn_of_a_queue(runs)
            if self._judge.findings or not self._plan.budgets:
                return
            if rest is None:
                self._ledger.clear()
                rest = Course(self._ledger, self._limits)
            else:
                self._take(runs)
                rest.begun = rest.ended = rest.begun + len(runs)
            pause_s = 0.0
            if rest.step is Step.CONFIRM:
                rest.confirm()
                pause_s = self._limits.pause_s

    def _take(self, runs: Iterable[Run]) -> None:
        if not self._ledger.self_timed:
            for run in runs:
                self._ledger.add(run.seconds, machine_s=run.machine_s)

    def _warn_of_a_queue(self, runs: Sequence[Run]) -> None:
        if len(runs) > 1 and all(run.ended for run in runs) and most_at_once(runs) < 2:
            self.warn(
                "no two of the users were ever under way at the same time: each ran to its end without waiting for "
                "anything. What one leaves behind for the next is found so, what needs two at once is not. Drive the "
                "backend over a socket, or let what it waits for really wait"
            )

    def warn(self, text: str) -> None:
        """Say what makes a green test less worth than it looks."""
        warnings.warn(f"{self._plan.nodeid}: {text}", IsolationWarning, stacklevel=2)

    def require_evidence(self, solos: Sequence[Evidence]) -> None:
        """Refuse a scenario that could not show a leak; warn of one that could hardly."""
        observed = [run.observations for evidence in solos for run in evidence.runs]
        if not any(observed):
            raise NothingMeasured(
                "the scenario observed nothing, so no leak could have been seen. "
                "Say what the user sees: user.observe(await client.get(…))"
            )
        if not self._cast.planted:
            raise NothingMeasured(
                "the scenario planted nothing: without user.id, user.secret() or user.number() in what it sends, "
                "all users do the same, and nobody could tell whose an answer is"
            )
        if not any(_holds_own(run) for evidence in solos for run in evidence.runs):
            self.warn(
                "a user who is alone never sees one of its own secrets, so a leak of somebody else's would hardly "
                "show either. Observe something that contains user.id or user.secret()"
            )

    def evidence(self, phase: str, runs: Iterable[Run], replay: str) -> Evidence:
        """What a phase left behind."""
        evidence = self._cast.evidence(f"{phase}, seed {self._seed}", runs, replay)
        return replace(evidence, after=self._around.after, after_alone=tuple(self._around.alone))


def _holds_own(run: Run) -> bool:
    texts = (canary.searchable(leaf.value) for o in run.observations for leaf in leaves(o.value))
    hits = (hit for text in texts if text is not None for hit in canary.find(text))
    return any(hit.owner == run.number for hit in hits)
