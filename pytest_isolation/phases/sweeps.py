"""The cancel sweep and the fault sweep: a user is cut at every suspension point once, and another one comes after it.

The one who is cut proves nothing by its own end. The one who comes next plays the whole scenario, and must see what a
user sees who is alone: a reply that was left in a connection, a lock that was never released, half of a transaction
show there.

A cut may leave the backend cold: a connection that was dropped has to be made again. The points that only such a run
meets are cut too, each right after the cut that led there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import NamedTuple, Protocol

from pytest_isolation.errors import TokenError
from pytest_isolation.model import Fault, Finding, Kind, Run
from pytest_isolation.phases.driver import Driver
from pytest_isolation.phases.points import Frame, Point
from pytest_isolation.phases.scene import Scene
from pytest_isolation.phases.token import Token
from pytest_isolation.users.cast import User

MOST_POINTS = 500
# A foreign secret proves itself; whatever else is different has to be so each time.
_TRIES = 3
# Who has not ended is played again with so much more patience: a client may wait on purpose before it connects again.
MORE_PATIENCE = 3


class Stage(Protocol):
    """What a sweep needs of whoever plays the test."""

    def users(self, count: int, stem: str = "user", anonymous: bool | None = None) -> list[User]:
        """More users; all of them without credentials, or none, if that is said."""

    def look(self, phase: str, runs: Sequence[Run], replay: str, whole: bool = True) -> list[Finding]:
        """What oracles find in runs; not ``whole``, only secrets of others count."""

    def keep(self, findings: Sequence[Finding]) -> None:
        """Report them."""

    def note(self, text: str) -> None:
        """Say what a reader should know besides."""


class _Place(NamedTuple):
    """Where a user is cut.

    Attributes:
        point: the suspension point.
        after: where another user is cut right before, so that the backend is cold; None where it is warm.
    """

    point: Point
    after: Point | None = None


@dataclass(slots=True)
class _Cut:
    """What came of a cut.

    Attributes:
        found: what it proves.
        reached: the user came to the point.
        held: it did, and could not be interrupted there.
        met: the points of the one who came after it.
    """

    found: Sequence[Finding] = ()
    reached: bool = False
    held: bool = False
    met: Sequence[Point] = ()


@dataclass(slots=True)
class _Coverage:
    """How far a sweep has come: of the points of a warm run, and of those that only a cold one meets."""

    name: str
    points: int
    warm: list[bool] = field(default_factory=list)
    cold: list[bool] = field(default_factory=list)
    cold_left: int = 0
    held: list[Point] = field(default_factory=list)

    def hold(self, place: _Place) -> None:
        self.held.append(place.point)
        self.points -= place.after is None

    def add(self, place: _Place, reached: bool) -> None:
        (self.warm if place.after is None else self.cold).append(reached)

    def __str__(self) -> str:
        if self.held and not self.points:
            return f"{self.name}: {self._held}"
        text = f"{self.name}: {sum(self.warm)} of {self.points} points"
        if missed := len(self.warm) - sum(self.warm):
            text += f", {missed} not met again"
        if self.cold or self.cold_left:
            text += f"; and {sum(self.cold)} of {len(self.cold) + self.cold_left} that are met only after a cut"
        return f"{text}; {self._held}" if self.held else text

    @property
    def _held(self) -> str:
        more = f" and {len(self.held) - 1} more" if len(self.held) > 1 else ""
        return f"nothing could be raised in {self.held[0]}{more}: it waits for what lets nobody go before it has ended"


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep.

    Attributes:
        seed: of the session.
        patience_s: who has not ended after this time is played again with more, and then never will.
        limit_s: how long the whole sweep may take.
        fault: what goes wrong at each point; None cancels there.
        asked: a marker asks for it, so that a sweep that was too long is no surprise.
        part: which of several checks of the test it belongs to; None where there is one.
        first: the points of the very first run, which nobody can play again if what it met is made once.
        anonymous: some users of the test have no credentials, so that one of those comes after a cut, too.
    """

    seed: int
    patience_s: float
    limit_s: float
    fault: Fault | None = None
    asked: bool = False
    part: int | None = None
    first: Sequence[Point] = ()
    anonymous: bool = False

    @property
    def name(self) -> str:
        """Of the phase."""
        return "cancel sweep" if self.fault is None else f"fault sweep with {self.fault.name}"

    def play(self, stage: Stage) -> Generator[Scene, list[Run], None]:
        """Cut users at all points that one who is alone meets, until there is a finding."""
        points = yield from self._points(stage)
        if not points:
            if points is not None and self.asked:
                stage.note(f"{self.name}: the scenario has no point where that could happen")
            return
        begun, done = perf_counter(), _Coverage(self.name, len(points))
        places, known = deque(_Place(point) for point in points), {point.frames for point in points}
        number = 0
        while places:
            if perf_counter() - begun > self.limit_s or number == MOST_POINTS:
                done.cold_left = sum(place.after is not None for place in places)
                stage.note(f"{done}, {self._why_it_stops(number)}")
                return
            place, number = places.popleft(), number + 1
            cut = yield from self._cut(stage, place, f"{number}/{number + len(places)}")
            if cut.found:
                stage.keep(cut.found)
                return
            if cut.held:
                done.hold(place)
            else:
                done.add(place, cut.reached)
            if place.after is None:
                places += (_Place(new, place.point) for new in self._new(cut.met, known))
        stage.note(str(done))
        if once := len({point.frames for point in self.first} - known):
            what = "1 point of the very first run was" if once == 1 else f"{once} points of the very first run were"
            stage.note(
                f"{self.name}: {what} not met again, so nobody was cut there; isolation.explore has a fresh backend "
                "for every run"
            )

    def replay(self, stage: Stage, token: Token) -> Generator[Scene, list[Run], None]:
        """Cut a user where one was cut before.

        Raises:
            TokenError: the scenario has no such point any more.
        """
        points = (yield from self._points(stage)) or []
        place = _named(points, token.point, token.check)
        if token.after is not None:
            place = None
            if (after := _named(points, token.after, "")) is not None:
                cut = yield from self._cut(stage, after, "again")
                place = _named(
                    [*self._new(cut.met, {point.frames for point in points})], None, token.check, after.point
                )
        if place is None:
            why = token.age or "its code, or a library that it uses, has changed"
            raise TokenError(
                f"the scenario has no such suspension point any more as {token} was found at: {why}. "
                f"It has {len(points)} now; run the test without --isolation-replay"
            )
        if token.age:
            stage.note(f"the replay token plays at the same point, though {token.age}")
        number = points.index(place.point) + 1 if place.after is None else len(points) + 1
        cut = yield from self._cut(stage, place, f"{number}/{max(number, len(points))}")
        stage.keep(cut.found)

    def _why_it_stops(self, number: int) -> str:
        if number == MOST_POINTS:
            return (
                f"and {MOST_POINTS} points are the most that one sweep takes: divide the scenario into several tests, "
                "or let it wait less often"
            )
        return "then its time was over" + ("" if self.asked else "; all of them with isolation(cancel=True)")

    def _points(self, stage: Stage) -> Generator[Scene, list[Run], list[Point] | None]:
        """The points of a run that nobody cuts; None if the sweep cannot be made."""
        driver = Driver(expire=self._expires)
        runs = yield Scene(self.name, stage.users(1, "solo"), self.patience_s, drivers=[driver])
        found = stage.look("solo, stepped by the driver", runs, str(Token(self.seed)))
        stage.keep(found)
        if found:
            return None
        if self._expires and not driver.shows_timers:
            stage.note(f"{self.name}: not possible on {driver.loop}, which does not show its timers")
            return None
        return [point for point in driver.points if self._counts(point)]

    def _counts(self, point: Point) -> bool:
        """Something may go wrong there."""
        return point.timed if self._expires else self.fault is None or point.is_io

    def _new(self, met: Iterable[Point], known: set[tuple[Frame, ...]]) -> Iterator[Point]:
        """Points at which the code has not waited before; they are known from now on."""
        for point in met:
            if point.frames not in known and self._counts(point):
                known.add(point.frames)
                yield replace(point, time=1)

    def _cut(self, stage: Stage, place: _Place, number: str) -> Generator[Scene, list[Run], _Cut]:
        """Cut a user at a point, as often as it takes to be sure of what shows afterwards."""
        first: Sequence[Finding] = ()
        met: Sequence[Point] = ()
        tries, by_code, patience_s = 0, False, self.patience_s
        while tries < _TRIES:
            cuts = [*self._drivers(place, by_code)]
            scene = self._scene(stage, cuts, patience_s)
            runs = yield scene
            reached = all(driver.cut is not None for driver in cuts)
            if any(driver.held for driver in cuts):
                self._suspect(stage, first, patience_s)
                found = self._look(stage, place, number, runs, scene.drivers)  # of which only a leak needs no proof
                return _Cut([finding for finding in found if finding.kind is Kind.LEAK], held=True)
            if not first and not reached and by_code:  # as it may be without a cut: not every user waits there
                return _Cut()
            tries, by_code = tries + (reached or bool(first)), True
            if not first and not reached:  # by another way, which is dearer to follow
                continue
            met = met or [point for driver in scene.drivers[len(cuts) :] for point in driver.points]
            found = self._look(stage, place, number, runs, scene.drivers)
            if any(finding.kind is Kind.LEAK for finding in found):
                return _Cut([*found, *first], True, met=met)
            if _starved(found):
                if patience_s > self.patience_s:
                    return _Cut(_starved_again(first if _starved(first) else found, patience_s), True, met=met)
                patience_s *= MORE_PATIENCE
            elif found and _starved(first):  # not so any more; something else is, and has to be there three times
                self._suspect(stage, first, patience_s)
                first, tries = (), 1
            if first and found and not reached:  # nobody was cut, and yet it is different: the damage lasts
                return _Cut(first, True, met=met)
            if not found and (reached or _starved(first)):
                self._suspect(stage, first, patience_s)
                return _Cut((), True, met=met)
            first = first or found
        # Where nobody came to the point again, the scenario goes another way since somebody was cut there.
        return _Cut(first, True, met=met)

    def _suspect(self, stage: Stage, first: Sequence[Finding], patience_s: float) -> None:
        """Say what was found, and not again, if anything was."""
        if not first:
            return
        said, more = f"{first[0].summary}, after {first[0].phase}", ""
        if _starved(first):
            more = f", and waited for up to {patience_s:.3g} s instead of {self.patience_s:.3g} s"
        stage.note(f"suspected: {said}; not again when it was played again{more}")

    def _scene(self, stage: Stage, cuts: Sequence[Driver], patience_s: float) -> Scene:
        """Users who are cut, and who comes after them, though one that is cut may hang.

        Who has no credentials comes first: it sends nothing of its own that would cover what was left behind.
        """
        users = stage.users(len(cuts))
        if self.anonymous:
            users += stage.users(1, "probe", anonymous=True)
            users += stage.users(1, "probe", anonymous=False)
        else:
            users += stage.users(1, "probe")
        drivers = [*cuts, *(Driver(expire=self._expires) for _ in users[len(cuts) :])]
        return Scene(self.name, users, patience_s, drivers=drivers, turn_s=patience_s / len(users))

    def _drivers(self, place: _Place, by_code: bool) -> Iterator[Driver]:
        for point in filter(None, (place.after, place.point)):
            raised = None if self.fault is None or self.fault.make is None else self.fault.make()
            yield Driver(point, raised, self._expires, by_code)

    def _look(
        self, stage: Stage, place: _Place, number: str, runs: Sequence[Run], drivers: Sequence[Driver]
    ) -> list[Finding]:
        """What oracles find in users who were cut, and in those who played the whole scenario."""
        cut = [(run, driver.cut) for run, driver in zip(runs, drivers, strict=True) if driver.cut is not None]
        whole = [run for run, driver in zip(runs, drivers, strict=True) if driver.cut is None]
        said = ", then ".join(f"{run.user} {self._how} {point}" for run, point in cut)
        if not said:
            held = any(driver.held for driver in drivers)
            said = (
                f"nobody could be cut in {place.point}"
                if held
                else f"nobody came to {place.point} any more after users were cut there"
            )
        phase = f"{self.name} {number}: {said}"
        point, after = place.point, place.after.number if place.after is not None else None
        fault = self.fault.name if self.fault else ""
        token = str(Token(self.seed, None, point.number, fault, point.check, after=after, part=self.part))
        found = stage.look(phase, [run for run, _ in cut], token, whole=False)
        found += stage.look(phase, whole, token)
        for run, _ in cut:
            if not run.ended and not found:
                stage.note(f"{phase}, and has not ended within {run.seconds:.1f} s; who came after it did not notice")
        return found

    @property
    def _how(self) -> str:
        if self.fault is None:
            return "was cancelled while it waited in"
        return "ran out of time in" if self._expires else f"met a {self.fault.name} in"

    @property
    def _expires(self) -> bool:
        return self.fault is not None and self.fault.make is None


def _starved(findings: Iterable[Finding]) -> bool:
    return any(finding.kind is Kind.STARVED for finding in findings)


def _starved_again(findings: Iterable[Finding], patience_s: float) -> list[Finding]:
    """The same, which says how long the last ones waited."""
    more = f", and after {patience_s:.3g} s when it was played again"
    return [replace(one, seen=one.seen + more) if one.kind is Kind.STARVED else one for one in findings]


def _named(points: Iterable[Point], number: int | None, check: str, after: Point | None = None) -> _Place | None:
    """The point that a token names: by the code around it, and by its number as far as several have the same."""
    same = [point for point in points if check in ("", point.check)]
    found = next((point for point in same if point.number == number), same[0] if same and check else None)
    return None if found is None else _Place(found, after)
