"""The steps of one run as text: who ran from where to where, a line for each turn, the guilty one marked."""

from __future__ import annotations

import asyncio
import linecache
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import anyio

from pytest_isolation.phases.waiting import Holding, behind
from pytest_isolation.users.whereabouts import is_installed, is_library

_PLUMBING = tuple(
    f"{folder}{os.sep}"
    for folder in (
        *(Path(asyncio.__file__).parent, Path(anyio.__file__).parent, Path(__file__).parents[1]),
        Path(sysconfig.get_path("purelib")) / "trio",  # which need not be there
    )
)
_MOST_LINES, _MOST_CODE = 40, 70
_LAST = 1000
_UNNAMED = re.compile(r"Task-[0-9]+")
CUT = "a cancellation"
TEST = "the test"
"""The name of the task that only waits for the others, and is not shown."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code at which a task stands."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.line).strip()
        code = code if len(code) <= _MOST_CODE else f"{code[:_MOST_CODE]}…"
        return f"{Path(self.file).name}:{self.line} {self.name}()  {code}"


class Standing(NamedTuple):
    """Where a task stands.

    Attributes:
        said: the line, and where that is a library's, the user's own that it was called from.
        is_library: it is in a library, and nobody of the user's own waits for it there.
    """

    said: str
    is_library: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """A task ran for one or several steps.

    Attributes:
        who: its name.
        now_s: virtual time.
        start: where it went on.
        stop: where it stopped, or what it ended with.
        deviation: how this differs from what asyncio would have done; empty if it does not.
        steps: how many.
        guilty: in this one the fault showed.
        is_library: nothing but lines of libraries was seen of it.
    """

    who: str
    now_s: float
    start: str
    stop: str
    deviation: str = ""
    steps: int = 1
    guilty: bool = False
    is_library: bool = False


@dataclass(slots=True)
class Trace:
    """Sees every step of a run, between ``begin`` and ``end``.

    Attributes:
        turns: what was seen.
        seen: how much somebody has seen so far; whoever asks which turn showed it knows whom it is about.
        holding: who holds what.
    """

    turns: list[Turn] = field(default_factory=list)
    seen: Callable[[], int] = lambda: 0
    holding: Holding = field(default_factory=Holding)
    _showed: list[int] = field(default_factory=list)
    _under_way: tuple[asyncio.Task[Any], float, Standing] | None = None
    _deviation: str = ""
    _numbers: dict[asyncio.Task[Any], int] = field(default_factory=dict)

    def step(self, task: asyncio.Task[Any] | None, now: float, handle: asyncio.Handle) -> None:
        """The step of a task, or of a plain callback, begins, and the one before it has ended."""
        self.end()
        if task is not None and task.get_name() != TEST:
            self._under_way = (task, now, _where(task))

    def deviation(self, others: Iterable[asyncio.Task[Any] | None]) -> None:
        """What comes now is not what asyncio would have done: it comes ahead of others."""
        self.end()
        self._deviation = f"ahead of {', '.join(dict.fromkeys(map(self.name, others)))}"

    def name(self, task: asyncio.Task[Any] | None) -> str:
        """The name that somebody gave it, or the function that it runs and a number: asyncio's own names differ."""
        if task is None:
            return "a callback"
        name = task.get_name()
        if not _UNNAMED.fullmatch(name):
            return name
        number = self._numbers.setdefault(task, len(self._numbers) + 1)
        function = str(getattr(task.get_coro(), "__qualname__", "task")).rpartition(".")[2]
        return f"{function}#{number}"

    def cancelled(self, task: asyncio.Task[Any], now: float) -> None:
        """A user is cancelled."""
        self.end()
        self.turns.append(Turn(self.name(task), now, "cancelled", f"while it waits in {standing(task)}", CUT))

    def end(self) -> None:
        """The step that was under way has ended."""
        if self._under_way is not None:
            task, now, start = self._under_way
            self._under_way = None
            stop = Standing(_ending(task), start.is_library) if task.done() else _where(task)
            is_library = start.is_library and stop.is_library
            self.turns.append(Turn(self.name(task), now, start.said, stop.said, self._deviation, is_library=is_library))
            self._deviation = ""
            self._showed += [len(self.turns) - 1] * (self.seen() - len(self._showed))

    def marked(self, who: str, showed: int | None) -> list[Turn]:
        """The turns, with the guilty one marked.

        Args:
            who: met the fault.
            showed: what it saw in that moment, by its number; None if it is about something else.
        """
        turns = [*self.turns]
        last = max((at for at, turn in enumerate(turns) if turn.who == who and turn.deviation != CUT), default=None)
        at = self._showed[showed] if showed is not None and showed < len(self._showed) else last
        if at is not None:
            turns[at] = replace(turns[at], guilty=True)
        return turns

    def busiest(self) -> str:
        """Who made most of the last steps: what goes on for ever is there."""
        last = Counter(turn.who for turn in self.turns[-_LAST:])
        return ", ".join(f"{who} made {count:,} of the last {_LAST:,} steps" for who, count in last.most_common(2))


def render(turns: Iterable[Turn], waiting: Iterable[str] = ()) -> str:
    """A line for each turn, and where it stopped.

    ``>`` marks what asyncio would have done otherwise, ``*`` where the fault showed. Tasks that a library has started,
    and that have no part in it, are only counted.

    Args:
        turns: of one run.
        waiting: where those stand who never go on.
    """
    turns = [*turns]
    theirs = {turn.who for turn in turns if not turn.is_library or turn.deviation or turn.guilty}
    folded = Counter(turn.who for turn in turns if turn.who not in theirs)
    # What comes after a task that is not shown stays a row of its own: there the user went on somewhere else.
    every = (_collapse([*some]) for _, some in groupby(turns, key=_Runs()))
    collapsed = [turn for turn in every if turn.who in theirs]
    begin_s = collapsed[0].now_s if collapsed else 0.0
    shown = [_line(turn, begin_s) for turn in collapsed]
    if len(shown) > _MOST_LINES:
        last = max((at for at, turn in enumerate(collapsed) if turn.deviation or turn.guilty), default=0)
        first = max(0, min(last - _MOST_LINES // 2, len(shown) - _MOST_LINES))
        before, after = first, len(shown) - first - _MOST_LINES
        shown = [
            *([f"  … {before} more before"] if before else []),
            *shown[first : first + _MOST_LINES],
            *([f"  … {after} more"] if after else []),
        ]
    if folded:
        steps, tasks = _some(folded.total(), "step"), _some(len(folded), "task")
        shown.append(f"  … not shown: {steps} of {tasks} of libraries")
    return "\n".join([*shown, *(f"! {text}" for text in waiting)])


def standing(task: asyncio.Task[Any]) -> str:
    """Where a task stands."""
    return _where(task).said


class _Runs:
    """The same key for steps of one task in a row; a deviation begins a row."""

    def __init__(self) -> None:
        self._row, self._who = 0, ""

    def __call__(self, turn: Turn) -> int:
        if turn.deviation or turn.who != self._who:
            self._row += 1
        self._who = "" if turn.deviation == CUT else turn.who
        return self._row


def _collapse(turns: list[Turn]) -> Turn:
    return replace(turns[0], stop=turns[-1].stop, steps=len(turns), guilty=any(turn.guilty for turn in turns))


def _line(turn: Turn, begin_s: float) -> str:
    mark = "*" if turn.guilty else ">" if turn.deviation else " "
    steps = f" ({turn.steps} steps)" if turn.steps > 1 else ""
    why = f"   [{turn.deviation}]" if turn.deviation and turn.deviation != CUT else ""
    joint = " " if turn.deviation == CUT else " → "
    start = "" if turn.start == turn.stop else f"{turn.start}{joint}"
    return f"{mark} {(turn.now_s - begin_s) * 1e3:6.1f} ms  {turn.who}: {start}{turn.stop}{steps}{why}"


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _ending(task: asyncio.Task[Any]) -> str:
    if task.cancelled():
        return "ends cancelled"
    error = task.exception()
    # Not what it says: that may be somebody's secret.
    return "ends" if error is None else f"ends with {type(error).__name__}"


def _where(task: asyncio.Task[Any]) -> Standing:
    """The innermost line that is neither of asyncio, anyio or trio nor this plugin's."""
    awaited: Any = task.get_coro()
    found: Place | None = None
    theirs: Place | None = None
    while awaited is not None:
        frame = _first(awaited, "cr_frame", "gi_frame", "ag_frame")
        if isinstance(frame, FrameType) and not frame.f_code.co_filename.startswith(_PLUMBING):
            found = Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
            theirs = theirs if is_library(found.file) else found
        awaited = behind(awaited)
    return _told(found, theirs)


def _told(inner: Place | None, theirs: Place | None) -> Standing:
    """``aiosqlite/core.py:160 ← service.py:81 mine()  rows = …``; what the standard library does says nothing."""
    if inner is None or theirs is None:
        return Standing("start" if inner is None else str(inner), inner is not None)
    through = f"{_in_library(inner)} ← " if is_installed(inner.file) else ""
    return Standing(f"{through}{theirs}", False)


def _in_library(place: Place) -> str:
    path = Path(place.file)
    return f"{path.parent.name}/{path.name}:{place.line}"


def _first(of: object, *names: str) -> Any:
    return next((value for name in names if (value := getattr(of, name, None)) is not None), None)
