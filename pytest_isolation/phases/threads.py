"""Other threads: one that is at work may still call back, so time must not jump; one that waits for work never will."""

from __future__ import annotations

import dis
import sys
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from queue import Queue, SimpleQueue
from types import CodeType, FrameType
from typing import NamedTuple
from weakref import WeakKeyDictionary

# A thread that stands still for so long, wherever that is, is not waited for; a pool's, which has a job, is.
_STILL_S = 0.25
_TURN_S = 0.0001
_POOLS = frozenset({"anyio", "concurrent"})
# What is written in C and waits has no frame of its own: it is known by the name under which it is called.
_WAITS = frozenset({"get", "acquire"})
_LOADS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})


class _Mark(NamedTuple):
    """Where a thread stands, and what the kernel says of it."""

    frame: int
    at: int
    ran: str
    runs: bool


# Since when a thread has stood where it stands; one that was there before is not waited for again in every run.
_STANDING: WeakKeyDictionary[threading.Thread, tuple[_Mark, float]] = WeakKeyDictionary()


class Threads:
    """The threads that began during a run."""

    def __init__(self) -> None:
        others = threading.active_count() > 1  # which takes less time to ask, and mostly there are none
        self._bystanders = frozenset(threading.enumerate() if others else ())

    def are_at_work(self) -> bool:
        """One of them does something, or has something to do."""
        if threading.active_count() == 1:
            return False
        if any(self._is_at_work(thread, frame) for thread, frame in self._others()):
            return True
        before = self._marks()
        if any(mark.runs for mark in before.values()):
            return True
        # Whoever has just been given something may not have woken up yet, or wait for its turn to run Python.
        if before:
            time.sleep(_TURN_S)
        return self._marks() != before

    def may_wake(self) -> bool:
        """One that was there before the run does something, or has not stood still for long."""
        return any(self._is_at_work(thread, frame) for thread, frame in self._others(bystanders=True))

    def _marks(self) -> dict[threading.Thread, _Mark]:
        return {thread: _mark(thread, frame) for thread, frame in self._others()}

    def _others(self, bystanders: bool = False) -> Iterator[tuple[threading.Thread, FrameType]]:
        frames = sys._current_frames()
        del frames[threading.get_ident()]  # which refers to them
        for one in threading.enumerate():
            if one.ident in frames and (bystanders or one not in self._bystanders):
                yield one, frames[one.ident]

    def _is_at_work(self, thread: threading.Thread, frame: FrameType) -> bool:
        if is_idle(frame):
            return False
        if type(thread).__module__.partition(".")[0] in _POOLS or _target(thread).partition(".")[0] in _POOLS:
            return True
        mark, now = _mark(thread, frame), time.monotonic()
        before, since = _STANDING.get(thread, (None, now))
        if before != mark:
            _STANDING[thread] = mark, now
            return True
        return now - since < _STILL_S


def is_idle(frame: FrameType) -> bool:
    """A thread that stands here waits for work, and nobody has given it any."""
    if not _waits(frame.f_code, frame.f_lasti):
        return False
    names = frame.f_locals
    if frame.f_code is threading.Condition.wait.__code__:
        return names.get("waiter") in names["self"]._waiters  # whoever is notified is taken from there
    given = [*names.values(), *getattr(names.get("self"), "__dict__", {}).values()]
    return all(one.empty() for one in given if isinstance(one, Queue | SimpleQueue))


@lru_cache(maxsize=1000)
def _waits(code: CodeType, at: int) -> bool:
    """What is called at this place of some code is known to wait."""
    instructions = [one for one in dis.get_instructions(code) if one.offset <= at]
    call = next((one for one in reversed(instructions) if one.offset == at), None)
    if call is None or call.positions is None:
        return False
    begin = call.positions.lineno, call.positions.col_offset
    loads = [
        one
        for one in instructions
        if one.opname in _LOADS
        and one.positions is not None
        and (one.positions.lineno, one.positions.col_offset) == begin
    ]
    return bool(loads) and loads[-1].argval in _WAITS


def _target(thread: threading.Thread) -> str:
    return getattr(getattr(thread, "_target", None), "__module__", None) or ""


def _mark(thread: threading.Thread, frame: FrameType) -> _Mark:
    folder = Path(f"/proc/self/task/{thread.native_id}")
    try:
        ran = (folder / "schedstat").read_text()
        state = (folder / "stat").read_text().rpartition(") ")[2][:1]
    except OSError:  # not on this system; it has just ended
        ran = state = ""
    return _Mark(id(frame), frame.f_lasti, ran, state == "R")
