"""Hears what came of one explored run: what users saw, how they ended, what they left behind and changed for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_isolation.judge import Judge
from pytest_isolation.model import Aftermath, Change, Confidence, Evidence, Finding, Kind, Run
from pytest_isolation.phases.ambient import State, changes, closer_look, glance, state
from pytest_isolation.phases.exploration import Played
from pytest_isolation.users.cast import Cast
from pytest_isolation.users.lendings import Lendings
from pytest_isolation.users.story import Story

EVERY = 10
"""What costs as much as a run itself is done at every so many of them, and at those without any deviation."""
_MOST_KNOWN = 10_000
_GRAVITY: Mapping[Kind, int] = {kind: place for place, kind in enumerate(Kind)}


class Hearing:
    """Judges the runs of one exploration.

    Most runs of a correct backend show what another one has shown before, word by word: they are judged once.

    Args:
        cast: where users come from.
        judge: knows the oracles.
        seed: the session's.
        lendings: tells what went wrong with pools in a run.

    Attributes:
        story: what a user sees who is alone.
        own_errors: what a user fails with who is alone, when its own tasks and timers run in another order.
    """

    def __init__(self, cast: Cast, judge: Judge, seed: int, lendings: Lendings) -> None:
        self.story = Story(())
        self.own_errors: set[type[BaseException]] = set()
        self._cast = cast
        self._judge = judge
        self._seed = seed
        self._lendings = lendings
        self._solos: list[Evidence] = []
        self._alone: tuple[Aftermath, ...] = ()
        self._sound: set[tuple[object, ...]] = set()
        self._state: State = {}
        self._glance: tuple[object, ...] = ()
        self._closer: tuple[object, ...] = ()
        self._runs = 0

    def begin(self) -> None:
        """Look around before anybody plays."""
        self._state, self._glance, self._closer = state(), glance(), closer_look()

    def heard_alone(self, played: Played, solos: Sequence[Evidence]) -> None:
        """What users left behind and changed who were alone: no crowd is accused of that."""
        changed = self._changed(thoroughly=True)
        left = played.left or ((),)
        self._alone = tuple(Aftermath(left=one, changes=changed if at == 0 else ()) for at, one in enumerate(left))
        self._solos = [*solos]

    def learn(self, solos: Sequence[Evidence] = ()) -> None:
        """What a user sees who is alone; what was sound before may not be so by another story."""
        self._solos += solos
        self.story = self._judge.learn(self._solos)
        self._sound.clear()

    def look(self, played: Played, phase: str, token: str) -> list[Finding]:
        """What oracles find in a run, the gravest first.

        Args:
            played: what came of it.
            phase: in words.
            token: plays it again.
        """
        self._runs += 1
        left, changed = played.left[0] if played.left else (), self._changed(self._runs % EVERY == 1)
        is_telling = left or changed or self._cast.late or self._lendings.told or played.unclosed
        looks = None if is_telling else _looks(played)
        if looks in self._sound:
            return []
        findings = self._look(played, Aftermath(left=left, changes=changed), phase, token)
        if looks is not None and not findings and self._judge.is_plain and len(self._sound) < _MOST_KNOWN:
            self._sound.add(looks)
        return findings

    def _look(self, played: Played, after: Aftermath, phase: str, token: str) -> list[Finding]:
        cut = [run for run in played.runs if run.number in played.cancelled or type(run.error) in self.own_errors]
        whole = [run for run in played.runs if run not in cut]
        story, judge = self.story, self._judge
        evidence = self.evidence(phase, whole, token, nobody=True)
        after = replace(after, mishaps=evidence.after.mishaps)
        evidence = replace(evidence, after=after, after_alone=self._alone)
        findings = judge.look(evidence, story)
        findings += judge.look(self.evidence(phase, cut, token), story, whole=False)
        if played.probe is not None and not findings:
            findings += judge.look(self.evidence(f"{phase}, alone after them", [played.probe], token), story)
        if late := self._cast.late_runs():
            ended = f"{phase}, after the run of its user had ended"
            findings += judge.look(self.evidence(ended, late, token), story, whole=False)
        if played.unclosed and not findings:
            findings.append(_unclosed(played.unclosed, f"{phase}, when all had ended", token))
        return self.sorted(findings)

    @staticmethod
    def sorted(findings: Sequence[Finding]) -> list[Finding]:
        """The gravest first."""
        return sorted(findings, key=lambda finding: _GRAVITY[finding.kind])

    def showed(self, played: Played, finding: Finding) -> int | None:
        """Which of the things that a user saw holds somebody else's secret; None if none does."""
        run = next((one for one in (*played.runs, played.probe) if one and one.user == finding.user), None)
        for at, one in enumerate(run.observations if run is not None and finding.kind is Kind.LEAK else ()):
            assert run is not None
            alone = self.evidence("", [replace(run, observations=(one,), overheard=())], "")
            if self._judge.look(alone, Story(()), whole=False):
                return at
        return None

    def look_alone(self, run: Run) -> list[Finding]:
        """What would be found in the run of a user who was alone."""
        return self._judge.look(self.evidence("solo", [run], ""), self.story)

    def acquit(self, run: Run) -> None:
        """A user met this alone: it belongs to the story."""
        if run.error is None and run.ended:
            self.learn([self.evidence("solo", [run], "")])

    def evidence(self, phase: str, runs: Sequence[Run], token: str, nobody: bool = False) -> Evidence:
        """What these users left behind, with what went wrong with pools in the run.

        Args:
            phase: in words.
            runs: of the users.
            token: plays it again.
            nobody: what nobody of the users met counts too; it is to count once.
        """
        numbers = {run.number for run in runs} | ({None} if nobody else set())
        mishaps = tuple(one for one in self._lendings.told if one.user in numbers)
        evidence = self._cast.evidence(f"{phase}, seed {self._seed}", runs, token)
        return replace(evidence, after=Aftermath(mishaps=mishaps))

    def _changed(self, thoroughly: bool) -> tuple[Change, ...]:
        seen, closer = glance(), closer_look() if thoroughly else self._closer
        if seen == self._glance and closer == self._closer:
            return ()
        before, self._state, self._glance, self._closer = self._state, state(), seen, closer_look()
        return tuple(changes(before, self._state))


def _unclosed(why: str, phase: str, token: str) -> Finding:
    """Something that was lent to a user and never given back is what a backend mostly waits for."""
    return Finding(
        kind=Kind.STARVED,
        user="everybody",
        phase=phase,
        summary="the backend never closed, though it did when users had been alone",
        seen=why,
        replay=token,
        confidence=Confidence.DIFFERENT,
    )


def _looks(played: Played) -> tuple[object, ...] | None:
    """All that a run is judged by; None for one that has to be looked at by itself."""
    found: list[object] = [played.cancelled]
    for run in played.runs if played.probe is None else (*played.runs, played.probe):
        if (run.error is not None and run.number not in played.cancelled) or not run.ended:
            return None
        found += (run.number, run.anonymous, type(run.error))
        for one in run.observations + run.overheard:
            found += (one.channel, repr(one.value), one.response)
    return tuple(found)
