"""Where a backend spends its time, by function, as pyinstrument sees it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinstrument.frame import Frame

_INTERVAL_S = 0.0005
_WAITS = ("select", "poll", "epoll", "kqueue", "control")
_OURS = f"{Path(__file__).parents[1]}{os.sep}"


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A function, and its part of the time in which the event loop did something.

    Attributes:
        name: of the function.
        where: its file and line; empty for one that is not Python.
        own: share of what it did by itself, 0 … 1.
        whole: share with all that it called.
    """

    name: str
    where: str
    own: float
    whole: float


@dataclass(frozen=True, slots=True)
class Bottlenecks:
    """What a profile says.

    Attributes:
        application: functions that are in no library, by what they take with all that they call.
        own: functions anywhere, by what they take themselves.
        idle: share of the time in which the event loop had nothing to do.
    """

    application: tuple[Bottleneck, ...]
    own: tuple[Bottleneck, ...]
    idle: float


async def find_bottlenecks(body: Callable[[], Awaitable[object]], calls: int, most: int = 5) -> Bottlenecks:
    """Call a body again and again under a sampling profiler, which sees the thread of the event loop.

    Args:
        body: what is profiled.
        calls: how often it is called.
        most: how many functions of either kind to name.

    Raises:
        ImportError: pyinstrument is not installed.
    """
    from pyinstrument import Profiler

    profiler = Profiler(interval=_INTERVAL_S, async_mode="disabled")  # of all tasks, not of this one
    profiler.start()
    try:
        for _ in range(calls):
            await body()
    finally:
        root = profiler.stop().root_frame()
    seen = _Seen()
    if root is not None:
        seen.add([root], frozenset())
    return seen.summed(most)


class _Seen:
    """Seconds by function."""

    def __init__(self) -> None:
        self._own: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._whole: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._application: set[tuple[str, str]] = set()
        self._idle_s = 0.0

    def add(self, frames: Iterable[Frame], callers: frozenset[tuple[str, str]]) -> None:
        """Take frames with all below them."""
        for frame in frames:
            if frame.is_synthetic:
                continue
            if frame.function.rpartition(".")[2] in _WAITS:
                self._idle_s += frame.time
                continue
            file = frame.file_path_short if frame.line_no else None
            key = frame.function, f"{file}:{frame.line_no}" if file else ""
            self._own[key] += frame.total_self_time
            if key not in callers:  # of one that calls itself the outermost counts
                self._whole[key] += frame.time
            is_ours = (frame.file_path or "").startswith(_OURS) or frame.function == "<module>"
            if frame.is_application_code and not is_ours:
                self._application.add(key)
            self.add(frame.children, callers | {key})

    def summed(self, most: int) -> Bottlenecks:
        """The largest of both kinds."""
        busy_s = sum(self._own.values())

        def largest(keys: Iterable[tuple[str, str]], by: dict[tuple[str, str], float]) -> tuple[Bottleneck, ...]:
            ordered = sorted(keys, key=lambda key: by[key], reverse=True)[:most]
            return tuple(Bottleneck(*key, self._own[key] / busy_s, self._whole[key] / busy_s) for key in ordered)

        if not busy_s:
            return Bottlenecks((), (), 1.0 if self._idle_s else 0.0)
        application, own = largest(self._application, self._whole), largest(self._own, self._own)
        return Bottlenecks(application, own, self._idle_s / (self._idle_s + busy_s))
