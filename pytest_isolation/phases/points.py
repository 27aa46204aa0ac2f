"""Suspension points: what a coroutine waits in, read off its chain of awaits, and how that is told and known again."""

from __future__ import annotations

import gc
import os
import sysconfig
import zlib
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from traceback import walk_tb
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, NamedTuple

from pytest_isolation.phases.breaking import from_outside

_OURS = str(Path(__file__).parents[1])
# With a separator at the end: pytest_isolation_shop is another package.
_STANDARD = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib"))
_INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("purelib", "platlib"))
_LOOPS = ("anyio/", "trio/", "uvloop/", "outcome/")
_SLEEPS = f"trio{os.sep}_timeouts.py"
# What Python puts around a coroutine or a generator that is waited for, and does not let one look through.
_WRAPPERS = frozenset({"async_generator_asend", "async_generator_athrow", "coroutine_wrapper", "anext_awaitable"})


class Frame(NamedTuple):
    """A function that waits.

    Attributes:
        code: of the function.
        line: in its file.
    """

    code: CodeType
    line: int

    @property
    def place(self) -> str:
        """``redis/asyncio/connection.py:786 in read_response``."""
        return f"{_short(self.code.co_filename)}:{self.line} in {self.code.co_name}"

    @property
    def is_library(self) -> bool:
        """It is in an installed package or in the standard library."""
        return self.code.co_filename.startswith((*_INSTALLED, *_STANDARD))

    @property
    def is_plumbing(self) -> bool:
        """It is in the standard library, or in one that stands for it: nothing of what is done shows there."""
        file = self.code.co_filename
        return self.is_library and (not file.startswith(_INSTALLED) or _short(file).startswith(_LOOPS))


@dataclass(frozen=True, slots=True)
class Point:
    """A suspension point.

    Attributes:
        number: of the point, from 1.
        frames: what waits there, the innermost first.
        time: how often they have waited there, from 1.
        on_task: it waits for another task, which has points of its own.
        idle: it waits for nothing, and only lets others have their turn.
        timed: a timer of this run may come first, as that of ``asyncio.timeout`` does.
    """

    number: int
    frames: tuple[Frame, ...]
    time: int = 1
    on_task: bool = False
    idle: bool = False
    timed: bool = False

    def __str__(self) -> str:
        """Where it is: the innermost library function that says something, and all functions of the user's own."""
        frames = [frame for frame in self.frames if not frame.is_plumbing] or list(self.frames[:1])
        inner = [frame for frame in frames[:1] if frame.is_library]
        shown = inner + [frame for frame in frames if not frame.is_library]
        return " ← ".join(frame.place for frame in shown or frames[:1]) or "a future"

    @property
    def check(self) -> str:
        """Eight digits that change when the code around the point does."""
        text = "|".join(f"{Path(f.code.co_filename).name}:{f.line}:{f.code.co_name}" for f in self.frames)
        return f"{zlib.crc32(text.encode()):08x}"

    @property
    def is_asleep(self) -> bool:
        """It is in a sleep of trio."""
        return any(frame.code.co_filename.endswith(_SLEEPS) for frame in self.frames[:4])

    @property
    def is_io(self) -> bool:
        """What it waits for may come from outside, and may break off."""
        return not self.on_task and not self.idle and from_outside([one.code for one in self.frames])


class Stepped:
    """Stands around a coroutine that the driver steps, and is none of what waits.

    Attributes:
        coroutine: the one inside.
    """

    __slots__ = ("coroutine",)

    coroutine: Coroutine[Any, Any, Any]


def frames_of(waits: Any) -> Iterator[Frame]:
    """What a coroutine waits in, the innermost last; ours are left out."""
    return (Frame(frame.f_code, frame.f_lineno) for frame in raw_frames(waits))


def raw_frames(waits: Any) -> Iterator[FrameType]:
    """The same as Python has it, with its variables."""
    while waits is not None:
        kind = type(waits)
        if kind is CoroutineType:
            frame, waits = waits.cr_frame, waits.cr_await
        elif kind is GeneratorType:
            frame, waits = waits.gi_frame, waits.gi_yieldfrom
        elif kind is AsyncGeneratorType:
            frame, waits = waits.ag_frame, waits.ag_await
        elif isinstance(waits, Stepped):
            frame, waits = None, waits.coroutine
        elif kind.__name__ in _WRAPPERS:
            frame, waits = None, next(filter(_is_suspended, gc.get_referents(waits)), None)
        else:  # compiled by Cython
            frame, waits = getattr(waits, "cr_frame", None), getattr(waits, "cr_await", None)
        if frame is not None and not _is_ours(frame.f_code.co_filename):
            yield frame


def _is_suspended(part: object) -> bool:
    kind = type(part)
    return kind in (CoroutineType, GeneratorType, AsyncGeneratorType) or kind.__name__ in _WRAPPERS


def stood_at(stopped: BaseException) -> str:
    """Where a task waited that was cancelled: as a suspension point is shown.

    Args:
        stopped: what was raised there.
    """
    frames = [Frame(frame.f_code, line) for frame, line in walk_tb(stopped.__traceback__)]
    return str(Point(0, tuple(one for one in frames[::-1] if not _is_ours(one.code.co_filename))))


@lru_cache(maxsize=10_000)
def _is_ours(file: str) -> bool:
    return file.startswith(_OURS + os.sep)


def waits_at(waits: Any, frames: Sequence[Frame]) -> bool:
    """A coroutine waits in these, the innermost first; most do not already in the outermost."""
    depth = len(frames)
    for frame in frames_of(waits):
        depth -= 1
        if depth < 0 or frames[depth] != frame:
            return False
    return depth == 0


def _short(file: str) -> str:
    """A path as a reader knows it: from the package for a library, from here for one's own."""
    path = Path(file)
    for root in (*_INSTALLED, *_STANDARD, str(Path.cwd())):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return file
