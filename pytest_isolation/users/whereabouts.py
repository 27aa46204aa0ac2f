"""Where in the user's code something was done."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

# With a separator at the end: pytest_isolation_shop is another package.
_OURS = f"{Path(__file__).parents[1]}{os.sep}"
_LIBRARIES = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_NOT_THEIRS = (_OURS, *_LIBRARIES, "<")

Place = tuple[str, int, str]  # a file, a line, a function
_INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("purelib", "platlib"))


def caller() -> Place | None:
    """Who calls, in code that is neither ours nor a library's; only noted now, because it is seldom shown."""
    for frame in _frames(sys._getframe()):
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_THEIRS):
            return file, frame.f_lineno, frame.f_code.co_name
    return None


def shown(place: Place | None) -> str:
    """``app.py:31 in get``"""
    return "" if place is None else f"{line(place[0], place[1])} in {place[2]}"


def line(file: str, number: int) -> str:
    """``app.py:31``"""
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{number}"


def is_library(file: str) -> bool:
    """The file belongs to an installed library, or to Python itself."""
    return file.startswith(_LIBRARIES)


def is_installed(file: str) -> bool:
    """The file belongs to an installed library, and not to Python itself."""
    return file.startswith(_INSTALLED)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """This one and its callers, those of the greenlet too in which SQLAlchemy was awaited."""
    while frame is not None:
        yield frame
        frame = frame.f_back
    greenlet = sys.modules.get("greenlet")
    parent = greenlet.getcurrent().parent if greenlet is not None else None
    frame = parent.gr_frame if parent is not None else None
    while frame is not None:
        yield frame
        frame = frame.f_back
