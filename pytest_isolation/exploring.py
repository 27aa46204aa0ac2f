"""Explores the schedules of a scenario: who alone sees what, which orders show more, and the shortest that does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from time import perf_counter

from pytest_isolation.errors import MisuseError, TokenError
from pytest_isolation.hearing import EVERY, Hearing
from pytest_isolation.judge import Judge
from pytest_isolation.model import Aftermath, Evidence, Finding, Holding, Kind
from pytest_isolation.phases.alone import Alone, Diary, Ready
from pytest_isolation.phases.conductor import Conductor
from pytest_isolation.phases.exploration import Played, Stagecraft, Used, play
from pytest_isolation.phases.interleaving import Trace, render
from pytest_isolation.phases.lanes import Lane
from pytest_isolation.phases.shrink import shrink, stripped, weight
from pytest_isolation.phases.strategies import Attempts, Replay, Strategy, Systematic, dense, mixed, sparse, steered
from pytest_isolation.phases.token import Token, check_of
from pytest_isolation.phases.writing import forget_files, have_written, with_files
from pytest_isolation.secrecy import Notice, Secrecy
from pytest_isolation.users.cast import Cast, User
from pytest_isolation.users.lendings import Lendings

_SOLOS, _MOST_ALONE = 5, 100
_SOLO_STEPS, _PATIENCE, _LEAST_STEPS = 200_000, 50, 1000
# As many steps as these, and so many times what a user takes who is alone, may be in an order that is not fair.
_LEAST_UNFAIR, _UNFAIR = 1000, 4
_REPLAYS, _MOST_SUSPECTED = 3, 3
# However little time there is, so often something shorter is tried.
_LEAST_TRIES = 20
# A random find that takes more deviations than this is looked for among the runs that take no more.
_FEW, _MOST_SHORTER = 2, 1500
# These prove themselves: what is shown to somebody cannot be unseen, and what is changed for all stays so.
_CERTAIN = (Kind.LEAK, Kind.AMBIENT)
_OWN_DOING = (Kind.DIFFERENT, Kind.FAILED, Kind.STARVED)


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked for.

    Attributes:
        craft: how a run is made.
        users: how many play at once.
        deviations: so many are tried systematically.
        seconds: how long the search may take; what systematic search leaves is for random runs.
        cancel: a user may be cancelled.
        random_runs: so many at the most.
        refine: make what is found as short as can be, and play it again.
        remains: see what is left in memory at the end, if nothing was found.
        longer: what a reader can write to give the search more time.
        inline: what a reader can write so that threads are steps of the loop.
    """

    craft: Stagecraft
    users: int = 3
    deviations: int = 1
    seconds: float = 5.0
    cancel: bool = True
    random_runs: int = 2000
    refine: bool = True
    remains: bool = True
    longer: str = "explore(…, seconds=…)"
    inline: str = "explore(…, inline_threads=True)"


@dataclass(slots=True)
class Explored:
    """What came of it.

    Attributes:
        runs: how many runs were made, of how many users in all, by phase.
        exhausted: which schedules were all played; empty if none.
        notes: what a reader should know.
    """

    runs: Counter[str] = field(default_factory=Counter)
    exhausted: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Find:
    """A run that failed.

    Attributes:
        values: what was decided.
        order: what counts as no deviation.
        findings: what oracles found in it.
        notice: what somebody noticed of somebody's secrets; None if that is not what it is about.
    """

    values: Sequence[int]
    order: str
    findings: Sequence[Finding]
    notice: Notice | None = None


class Explorer:
    """Explores one scenario.

    Args:
        search: what is asked for.
        cast: where users come from.
        judge: hears what they saw.
        seed: the session's.
        require: refuses solo runs that could not show a leak.
        lendings: tells what went wrong with pools in a run.
        part: which of several checks of one test this is; None where there is one.

    Attributes:
        users: who plays at once; in each run the same, who have seen nothing yet.
    """

    def __init__(
        self,
        search: Search,
        cast: Cast,
        judge: Judge,
        seed: int,
        require: Callable[[Sequence[Evidence]], None],
        lendings: Lendings | None = None,
        part: int | None = None,
    ) -> None:
        self.done = Explored()
        self._search = search
        self._cast = cast
        self._judge = judge
        self._seed = seed
        self._part = part
        self._require = require
        self._solos = cast.users(_SOLOS, "solo")
        self.users = cast.users(search.users)
        [self._probe] = cast.users(1, "probe")
        self._lendings = lendings or Lendings()
        self._hearing = Hearing(cast, judge, seed, self._lendings)
        self._secrecy = Secrecy(cast, judge, self.users, self._play_varied)
        self._most_steps, self._fair_after = _SOLO_STEPS, _LEAST_STEPS
        self._used = Used()
        self._unplayed = str(Token(seed))
        self._external = self._tried = self._unfair = 0
        self._held: tuple[Holding, ...] = ()
        self._suspected: list[str] = []
        self._dice = random.Random(seed).getstate()
        self._own_doing: dict[tuple[object, ...], bool] = {}

    def explore(self) -> None:
        """Play alone, then search until there is a finding or the time is over."""
        with _dice_restored():
            self._explore()

    def _explore(self) -> None:
        if self._learn():
            return
        begun, systematic = perf_counter(), Systematic(self._search.deviations)
        find = self._first(systematic.attempts(), begun, None)
        rest = 0
        if find is None and systematic.level == self._search.deviations:
            before = self._tried
            find = self._first(mixed(self._seed, self._cancels), begun, self._search.random_runs)
            rest = self._tried - before
        if find is not None:
            self._report(find)
        else:
            self._conclude(systematic, rest)
        self._note_outside()

    def replay(self, token: Token) -> None:
        """Play alone, then one schedule again.

        Raises:
            TokenError: the run has no such decisions any more.
        """
        with _dice_restored():
            self._play_again(token)

    def _play_again(self, token: Token) -> None:
        if self._learn():
            return
        values = dense(token.deviations)
        strategy = Replay(values, token.order)
        findings, conductor, _ = self._try(strategy)
        self._refuse_stale(token, strategy, conductor)
        notice = None
        if token.varied is not None and not findings:
            notice = self._secrecy.again(values, token.order, token.varied, token.variant)
            findings = [] if notice is None else [notice.finding(self._phase, str(token))]
        if findings:
            self._keep(_Find(values, token.order, findings, notice), _REPLAYS)
        else:
            self.done.notes.append("the schedule of the token was played again, and nothing was found in it")
        self._note_outside()

    def _conductor(self, strategy: Strategy, cancels: int | None = None, watcher: Trace | None = None) -> Conductor:
        """Of one run; it is patient with as many steps as the scenario seems to need."""
        cancels = self._cancels if cancels is None else cancels
        return Conductor(strategy, self._most_steps, cancels, watcher, self._fair_after)

    @property
    def _cancels(self) -> int:
        return int(self._search.cancel)

    @property
    def _phase(self) -> str:
        return f"exploration of {self._search.users} users"

    def _learn(self) -> bool:
        """Find out what a user sees who is alone: after others, and first, in whatever order its own tasks run."""
        self._hearing.begin()
        begun = perf_counter()
        conductor = self._conductor(Replay(), 0)
        played = self._play("solo", conductor, self._solos, at_once=False)
        self._refuse_failed(played)
        token, phase = self._unplayed, "solo, one user after another"
        solos = [self._hearing.evidence(phase, [run], token, run is played.runs[0]) for run in played.runs]
        self._require(solos)
        for evidence in solos:
            self._judge.look_for_canaries(evidence, self._judge.learn(solos[:1]))
        self._hearing.heard_alone(played, solos)
        steps = conductor.steps // _SOLOS + 1
        self._most_steps = _LEAST_STEPS + _PATIENCE * steps * (self._search.users + 1)
        self._fair_after = _LEAST_UNFAIR + _UNFAIR * steps * (self._search.users + 1)
        attempts = Systematic(min(1, self._search.deviations)).attempts()
        more: list[Evidence] = []
        for strategy, tell in steered(attempts, _MOST_ALONE):
            if self._is_over(begun):
                break
            conductor = self._conductor(strategy, 0)
            [run] = self._play("solo", conductor, [self._cast.again(self._solos[0])]).runs
            tell(conductor.options)
            if run.error is not None:
                self._hearing.own_errors.add(type(run.error))
            elif run.ended:
                more.append(self._cast.evidence(f"solo, seed {self._seed}", [run], token))
        self._hearing.learn(more)
        return bool(self._judge.findings)

    def _refuse_failed(self, played: Played) -> None:
        for run in played.runs:
            if run.error is not None:
                run.error.add_note(f"pytest-isolation: {run.user} was alone, so this says nothing of isolation yet")
                raise run.error
            if not run.ended:
                raise MisuseError(
                    f"{run.user} was alone on the controlled loop, and never got to the end of the scenario: "
                    + "; ".join(played.waiting)
                )

    def _refuse_stale(self, token: Token, strategy: Replay, conductor: Conductor) -> None:
        """Refuse a token whose decisions are not the run's any more: it would silently play another schedule."""
        is_same = check_of(conductor.options, token.deviations) == token.check
        if is_same and not strategy.clamped and not strategy.unused:
            return
        what = (
            f"the run has no such decisions any more as {token} was found with: its code, a library that it uses, "
            "Python, or the order of a set of texts (PYTHONHASHSEED) has changed"
        )
        if not self._external:
            raise TokenError(f"{what}; run the test without --isolation-replay")
        self.done.notes.append(f"{what}, or what came from outside the loop came otherwise")

    def _first(self, attempts: Attempts, begun: float, most: int | None) -> _Find | None:
        """The first run that fails, and fails again; None if there is none before the time is over."""
        for number, (strategy, tell) in enumerate(steered(attempts, most)):
            findings, conductor, played = self._try(strategy)
            self._tried += 1
            if findings:
                find = _Find(stripped(conductor.values), strategy.order, findings)
                if self._is_certain(find):
                    return find
            elif (number < 2 or number % EVERY == 0) and not conductor.external:
                find_or_none = self._notice(strategy.order, conductor.values, played)
                if find_or_none is not None:
                    return find_or_none
                if number == 0 and most is None and self._search.users > 1:
                    self._suspected += self._secrecy.presence(played)
            tell(conductor.options)
            if self._is_over(begun):
                return None
        return None

    def _is_over(self, begun: float) -> bool:
        """Something has taken as long as the search may."""
        return perf_counter() - begun > self._search.seconds

    def _notice(self, order: str, values: Sequence[int], played: Played) -> _Find | None:
        if self._search.users < 2:
            return None
        notice = self._secrecy.check(values, order, played)
        if notice is None:
            return None
        return _Find(stripped(values), order, [notice.finding(self._phase, "")], notice)

    def _is_certain(self, find: _Find) -> bool:
        """A leak proves itself; anything else must show again, because what is outside the loop may differ."""
        if find.findings[0].kind in _CERTAIN or self._fails_again(find, find.values):
            return True
        self._suspect(find, "not again when it was played again")
        return False

    def _suspect(self, find: _Find, why: str) -> None:
        if len(self._suspected) < _MOST_SUSPECTED:
            self._suspected.append(f"suspected: {find.findings[0].summary}; {why}")

    def _fails_again(self, find: _Find, values: Sequence[int]) -> bool:
        findings, _, _ = self._try(Replay(values, find.order))
        return any(finding.kind is find.findings[0].kind for finding in findings)

    def _try(self, strategy: Strategy) -> tuple[list[Finding], Conductor, Played]:
        """What oracles find in one run that was not its user's own doing."""
        conductor = self._conductor(strategy)
        played = self._crowd(conductor)
        findings = self._look(played, self._unplayed)
        if findings and any(finding.kind in _OWN_DOING for finding in findings):
            findings = self._without_own_doing(findings, conductor, played)
        return findings, conductor, played

    def _without_own_doing(self, findings: Sequence[Finding], conductor: Conductor, played: Played) -> list[Finding]:
        """Without what a user meets alone as well, with its own steps in the order and at the pace of that run."""
        accused = {finding.user for finding in findings if finding.kind in _OWN_DOING}
        diaries = {
            run.user: (user, Diary(user._number))
            for user, run in zip(self.users, played.runs, strict=True)
            if run.user in accused
        }
        again = self._conductor(Replay(conductor.values, conductor.strategy.order))
        again.peek = partial(_peek_all, [diary for _, diary in diaries.values()])
        self._crowd(again, "own doing")
        return [
            finding
            for finding in findings
            if finding.kind not in _OWN_DOING
            or finding.user not in diaries
            or not self._meets_alone(finding, *diaries[finding.user])
        ]

    def _meets_alone(self, finding: Finding, user: User, diary: Diary) -> bool:
        """The same is found where a user plays alone as its diary says; what was played before is known."""
        case = (finding.user, finding.kind, finding.seen, *diary.values, None, *diary.lags.items())
        if case not in self._own_doing:
            alone = self._conductor(Alone(diary, user._number), 0)
            [run] = self._play("own doing", alone, [self._cast.again(user)]).runs
            same = any(one.kind is finding.kind and one.seen == finding.seen for one in self._hearing.look_alone(run))
            if same:
                self._hearing.acquit(run)
            if alone.external:
                return same
            self._own_doing[case] = same
        return self._own_doing[case]

    def _crowd(self, conductor: Conductor, phase: str = "exploration") -> Played:
        users = [self._cast.again(user) for user in self.users]
        return self._play(phase, conductor, users, self._cast.again(self._probe))

    def _play_varied(
        self, strategy: Strategy, varied: User | None = None, variant: int = 0, absent: User | None = None
    ) -> tuple[Played, Sequence[int]]:
        conductor = self._conductor(strategy)
        users = [
            self._cast.again(user) if user is not varied else self._cast.varied(user, variant)
            for user in self.users
            if user is not absent
        ]
        played = self._play("secrecy", conductor, users, self._cast.again(self._probe))
        self._cast.late_runs()
        return played, conductor.values

    def _look(self, played: Played, token: str) -> list[Finding]:
        findings = self._hearing.look(played, self._phase, token)
        if not self._held or all(one.in_cycle for one in self._held):
            return findings
        everybody = [*played.runs, *([played.probe] if played.probe is not None else ())]
        after = replace(self._hearing.evidence(self._phase, everybody, token), after=Aftermath(held=self._held))
        return self._hearing.sorted([*findings, *self._judge.retained(after)])

    def _play(
        self,
        phase: str,
        conductor: Conductor,
        users: Sequence[User],
        probe: User | None = None,
        at_once: bool = True,
    ) -> Played:
        random.setstate(self._dice)  # or a decision would mean something else where a backend draws numbers
        try:
            played = play(self._search.craft, conductor, users, probe, at_once)
        except Exception as error:
            decided = f"in the {conductor.order} order with the decisions {sparse(conductor.values)}"
            error.add_note(f"pytest-isolation: in a run of the exploration ({phase}, {len(users)} users, {decided})")
            raise
        self._held = self._cast.tracked.after_run(played.backend)
        self._used.refuse(played.backend)
        self._external += conductor.external
        self._unfair += conductor.was_unfair and phase == "exploration"
        self.done.runs[phase] += len(users)
        return self._with_files(played, users, probe) if have_written(self._cast) else played

    def _with_files(self, played: Played, users: Sequence[User], probe: User | None) -> Played:
        """The run with what was written into files; nothing of one that was played with other secrets."""
        everybody = [*users, *([probe] if probe is not None else ())]
        if any(user._key != self._cast.key for user in everybody):
            for user in everybody:
                forget_files(user)
            return played
        runs = tuple(with_files(user, run) for user, run in zip(users, played.runs, strict=True))
        after = played.probe if probe is None or played.probe is None else with_files(probe, played.probe)
        return played._replace(runs=runs, probe=after)

    def _report(self, find: _Find) -> None:
        """Make it short, play it again, and keep it with its steps."""
        if not self._search.refine or find.notice is not None or find.findings[0].kind is Kind.AMBIENT:
            self._keep(find, _REPLAYS)
            return
        begun, tries = perf_counter(), count()

        def fails(shorter: Sequence[int]) -> bool:
            return (next(tries) < _LEAST_TRIES or not self._is_over(begun)) and self._fails_again(find, shorter)

        values = shrink(find.values, fails)
        if weight(values)[0] < weight(find.values)[0] or values != find.values:
            find = self._refreshed(replace(find, values=values))
        if weight(find.values)[0] > _FEW:
            find = self._shorter(find, begun)
        if self._is_over(begun) and find.values:
            self.done.notes.append(
                f"the time for making the finding short was over ({self._search.seconds:g} s): with more of it, "
                f"{self._search.longer}, fewer steps may be shown"
            )
        again = sum(self._fails_again(find, find.values) for _ in range(_REPLAYS))
        if not again and self._external and find.findings[0].kind not in _CERTAIN:
            self._suspect(find, f"not in any of {_REPLAYS} more replays")
            self.done.notes += self._suspected
            return
        self._keep(find, again)

    def _refreshed(self, find: _Find) -> _Find:
        findings, _, _ = self._try(Replay(find.values, find.order))
        return replace(find, findings=findings) if findings else find

    def _shorter(self, find: _Find, begun: float) -> _Find:
        """The same kind of finding with few deviations, if there is one."""
        for strategy, tell in steered(Systematic(_FEW).attempts(), _MOST_SHORTER):
            if self._is_over(begun):
                break
            findings, conductor, _ = self._try(strategy)
            if findings and findings[0].kind is find.findings[0].kind:
                return _Find(stripped(conductor.values), strategy.order, findings)
            tell(conductor.options)
        return find

    def _keep(self, find: _Find, again: int) -> None:
        users, probe = [self._cast.again(user) for user in (*self.users, self._probe)], repr(self._probe)[1:-1]
        who = find.findings[0].user
        trace = Trace()
        trace.seen = lambda: next((len(user._observations) for user in users if repr(user)[1:-1] == who), 0)
        conductor = self._conductor(Replay(find.values, find.order), watcher=trace)
        played = self._play("exploration", conductor, users[:-1], users[-1])
        met = any(finding.user == probe for finding in find.findings)
        turns = trace.marked(who, self._hearing.showed(played, find.findings[0]))
        steps = render((turn for turn in turns if met or turn.who != probe), played.waiting)
        token = str(self._token(find, conductor.options))
        how = f"{_some(weight(find.values)[0], 'deviation')} from the order {find.order}"
        if again < _REPLAYS:
            showed = f"showed in {again} of {_REPLAYS} replays"
            is_certain = find.findings[0].kind in _CERTAIN
            proven = f"the finding is proven; only its order cannot be relied on to come again: it {showed}"
            self.done.notes.append(proven if is_certain else f"the finding {showed}")
        self._judge.keep(
            replace(finding, replay=token, steps=steps, phase=f"{finding.phase}, {how}") for finding in find.findings
        )

    def _conclude(self, systematic: Systematic, rest: int) -> None:
        if systematic.level >= 0:
            which = "" if systematic.is_all else f" with ≤ {_some(systematic.level, 'deviation')}"
            what = f"{_some(self._search.users, 'user')}, {_some(systematic.exhausted, 'run')}"
            self.done.exhausted = f"all schedules{which}, {what}"
            if systematic.known:
                self.done.exhausted += f" ({systematic.known:,} made known steps, and were not gone on from)"
            if self._external:
                self.done.exhausted += ", as far as the order was the loop's: threads and sockets had a part in it"
            self.done.notes.append(self.done.exhausted + (f"; and {rest} random ones" if rest else ""))
        if systematic.level < self._search.deviations:
            self.done.notes.append(
                f"the time was over ({self._search.seconds:g} s) after {_some(self._tried, 'run')}, before all with "
                f"≤ {_some(self._search.deviations, 'deviation')} were played: give it more with {self._search.longer}"
            )
        if self._unfair:
            self.done.notes.append(
                f"{_some(self._unfair, 'run')} went on as asyncio would after {self._fair_after:,} steps: somebody "
                "asks again and again whether others have got on, and in no other order would these ever"
            )
        self.done.notes += self._suspected

    def _note_outside(self) -> None:
        if self._external:
            is_real = self._search.craft.inline_threads or self._search.craft.on != "asyncio"
            inline = "" if is_real else f"; for threads: {self._search.inline}"
            self.done.notes.append(
                f"not fully replayable: {self._external} events came from threads or sockets, whose order is not the "
                f"loop's{inline}"
            )

    def _token(self, find: _Find, options: Sequence[int]) -> Token:
        deviations = sparse(find.values)
        token = Token(
            self._seed,
            self._search.users,
            order=find.order,
            deviations=deviations,
            check=check_of(options, deviations),
            part=self._part,
        )
        if (notice := find.notice) is None:
            return token
        varied = next(user.index for user in self.users if repr(user)[1:-1] == notice.other)
        return replace(token, varied=varied, variant=notice.variant)


@contextmanager
def _dice_restored() -> Iterator[None]:
    """Leave the numbers of ``random`` as they were: whatever a backend draws from them is drawn anew in each run."""
    dice = random.getstate()
    try:
        yield
    finally:
        random.setstate(dice)


def _peek_all(diaries: Sequence[Diary], ready: Ready, lane: Lane) -> None:
    for diary in diaries:
        diary.peek(ready, lane)


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
