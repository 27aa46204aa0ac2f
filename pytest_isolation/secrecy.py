"""Nobody can tell what anybody else's secrets are: not by what it sees, not by how it ends, not by when.

A canary shows what is passed on as it is. A count, an order, an error, a delay carry none. So a schedule is played
again with the same decisions, and one user has other secrets: whatever the others notice of that is a channel. On a
loop with virtual time also *when* somebody sees something is exact, so that a delay is as plain as a wrong word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from pytest_isolation.judge import Judge
from pytest_isolation.model import Evidence, Finding, Kind, Run
from pytest_isolation.phases.exploration import Played
from pytest_isolation.phases.strategies import FIFO, STICKY, Replay, Strategy, Uniform
from pytest_isolation.users.cast import Cast, User
from pytest_isolation.users.transcript import place, shorten

_SCHEDULES, _MOST_TRIED = 3, 14


class Player(Protocol):
    """Plays a run of all users (``exploring.Explorer``)."""

    def __call__(
        self, strategy: Strategy, varied: User | None = None, variant: int = 0, absent: User | None = None
    ) -> tuple[Played, Sequence[int]]:
        """Play.

        Args:
            strategy: decides.
            varied: who has other secrets than usual.
            variant: which other ones.
            absent: who is not there.

        Returns:
            What came of it, and what was decided.
        """


@dataclass(frozen=True, slots=True)
class Notice:
    """What one user noticed of another.

    Attributes:
        how: ``sees``, ``ends`` or ``waits``.
        user: who noticed something.
        other: of whom.
        variant: which other secrets that one had.
        channel: where.
        expected: what it was.
        seen: what it is when only that one's secrets are others.
    """

    how: str
    user: str
    other: str
    variant: int
    channel: str
    expected: str
    seen: str

    def finding(self, phase: str, token: str) -> Finding:
        """As it is reported."""
        what = {
            "sees": "saw another response than before",
            "ends": "ended in another way than before",
            "waits": "was answered at another time than before",
        }
        return Finding(
            kind=Kind.DIFFERENT,
            user=self.user,
            phase=f"{phase}, which was played twice with the same decisions",
            summary=f"{self.user} {what[self.how]}, though only the secrets of {self.other} were others",
            channel=self.channel,
            expected=self.expected,
            seen=self.seen,
            replay=token,
        )


class Secrecy:
    """Looks whether users notice one another's secrets.

    Args:
        cast: where users come from.
        judge: knows what is to be normalised.
        users: who play at once.
        play: plays a run.
    """

    def __init__(self, cast: Cast, judge: Judge, users: Sequence[User], play: Player) -> None:
        self._cast = cast
        self._judge = judge
        self._users = users
        self._play = play
        self._checks = 0

    def check(self, values: Sequence[int], order: str, played: Played) -> Notice | None:
        """Play a schedule again with other secrets of one user, each time of another one; what somebody noticed.

        Whatever seems to be noticed must show on several schedules: with other secrets a program may go other ways,
        on which the same decisions mean something else.
        """
        self._checks += 1
        other, variant = self._users[self._checks % len(self._users)], self._checks
        notice = self._compare(Replay(values, order), played, other, variant)
        if notice is None:
            return None
        confirmed = 1
        for strategy in _schedules():
            again, decided = self._play(strategy)
            same = self._compare(Replay(decided, strategy.order), again, other, variant)
            confirmed += same is not None and (same.user, same.how) == (notice.user, notice.how)
            if confirmed == _SCHEDULES:
                return notice
        return None

    def again(self, values: Sequence[int], order: str, index: int, variant: int) -> Notice | None:
        """The same of one schedule, with certain other secrets of one user."""
        played, _ = self._play(Replay(values, order))
        return self._compare(Replay(values, order), played, self._users[index % len(self._users)], variant)

    def presence(self, played: Played) -> Iterator[str]:
        """A note for each user who can tell by what it sees that another one is there, where nothing is decided."""
        for other in self._users:
            alone, _ = self._play(Replay(), absent=other)
            for mine, run in _pairs(played, alone, other):
                if mine.observations != run.observations and self._first_difference(Replay(), mine, run):
                    yield (
                        f"{run.user} sees something else when {repr(other)[1:-1]} is not there (a number that counts "
                        "for all, an order); that is nobody's secret, and no finding"
                    )
                    return

    def _compare(self, strategy: Replay, played: Played, other: User, variant: int) -> Notice | None:
        varied, _ = self._play(strategy, other, variant)
        for mine, run in _pairs(played, varied, other):
            same = _ending(mine) == _ending(run) and mine.observations == run.observations
            if same and _came_at_the_same_times(played, varied, run.number):
                continue
            notice = self._notice(Replay(strategy.values, strategy.order), played, varied, run, other, variant)
            if notice is not None:
                return notice
        return None

    def _notice(
        self, strategy: Replay, played: Played, varied: Played, run: Run, other: User, variant: int
    ) -> Notice | None:
        """What a user noticed, if it is not what differs from run to run anyway."""
        same, _ = self._play(strategy)
        mine, twin = _run_of(played, run.number), _run_of(same, run.number)
        if mine is None or twin is None or _ending(mine) != _ending(twin):
            return None
        name = repr(other)[1:-1]
        if _ending(mine) != _ending(run):
            return Notice("ends", run.user, name, variant, "", _ending(mine), _ending(run))
        story = self._judge.learn([self._evidence(mine), self._evidence(twin)])
        for difference in story.differences(self._evidence(run), run):
            expected, seen = (
                story.address(shorten(text or "nothing"), run.user) for text in (difference.expected, difference.seen)
            )
            where = place(run, difference.channel, difference.position, difference.path)
            return Notice("sees", run.user, name, variant, where, expected, seen)
        before, again, now = (one.when(run.number) for one in (played, same, varied))
        if before == again != now and before and now:
            at = next((at for at, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), -1)
            return Notice("waits", run.user, name, variant, "", _after(before[at]), _after(now[at]))
        return None

    def _first_difference(self, strategy: Replay, mine: Run, run: Run) -> bool:
        same, _ = self._play(strategy)
        twin = _run_of(same, mine.number)
        story = self._judge.learn([self._evidence(mine), *([] if twin is None else [self._evidence(twin)])])
        return any(True for _ in story.differences(self._evidence(run), run))

    def _evidence(self, run: Run) -> Evidence:
        return self._cast.evidence("", [run])


def _pairs(played: Played, another: Played, other: User) -> Iterator[tuple[Run, Run]]:
    """The runs of everybody else, and of the one who came after them, in both."""
    for run in (*another.runs, *([another.probe] if another.probe is not None else ())):
        mine = _run_of(played, run.number)
        is_cut = run.number in played.cancelled or run.number in another.cancelled
        if mine is not None and run.number != other._number and not is_cut:
            yield mine, run


def _came_at_the_same_times(played: Played, another: Played, number: int) -> bool:
    mine, twin = played.times.get(number), another.times.get(number)
    return mine is twin if mine is None or twin is None else mine.is_as(twin)


def _run_of(played: Played, number: int) -> Run | None:
    return next((run for run in (*played.runs, played.probe) if run is not None and run.number == number), None)


def _ending(run: Run) -> str:
    if not run.ended:
        return "never"
    return "well" if run.error is None else f"with {type(run.error).__name__}"


def _after(seconds: float) -> str:
    return f"after {seconds * 1e3:g} ms"


def _schedules() -> Iterator[Strategy]:
    yield Replay((), FIFO)
    yield Replay((), STICKY)
    for seed in range(_MOST_TRIED - 2):
        yield Uniform(Random(seed), cancels=0)
