"""Notes which files are written during users' work, and reads them when all have ended.

Only a file that is one user's own says anything: one that its work made, or overwrote under a name that bears a secret,
and that nobody else's work wrote. Of one that was there before, or that several write, such as a log or a database,
nobody can tell whose bytes are whose.
"""

from __future__ import annotations

import builtins
import io
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_isolation.model import Observation, Run
from pytest_isolation.phases.hearing import told_all
from pytest_isolation.users import canary
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import User

_LARGEST = 1024 * 1024
_MOST = 100
_MODES = frozenset("wax+")

_Writer = tuple[str, int]  # the key of the cast and the number of the user

# By path, who wrote it in this process; None is several, or somebody who came before.
_writers: dict[str, _Writer | None] = {}
_unread: defaultdict[_Writer, dict[str, None]] = defaultdict(dict)


def files() -> Iterator[AbstractContextManager[None]]:
    """What notes files that are opened for writing, by whoever has not kept ``open`` under another name."""
    for module in (builtins, io):
        yield told_all(module, "open", _hear_open)
    yield told_all(os, "open", _hear_system_open)
    for name in ("rename", "replace"):
        yield told_all(os, name, _hear_rename)


def with_files(user: User, run: Run) -> Run:
    """The run with what its user's work wrote into files of its own; called when all users have ended.

    Args:
        user: who played.
        run: what came of it.
    """
    writer = _writer(user)
    own = [path for path in _unread.pop(writer, ()) if _writers.get(path) == writer][:_MOST]
    files = [Observation("file", {_shown(path): held}) for path in own if (held := _held(path)) is not None]
    return replace(run, overheard=(*run.overheard, *files)) if files else run


def _hear_open(file: Any = None, mode: Any = "r", *_: Any, **__: Any) -> None:
    if isinstance(mode, str) and not _MODES.isdisjoint(mode):
        _note(file, os.O_TRUNC if "w" in mode else 0)


def _hear_system_open(path: Any = None, flags: Any = 0, *_: Any, **named: Any) -> None:
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) and named.get("dir_fd") is None:
        _note(path, flags)


def _note(path: Any, flags: int) -> None:
    if (user := AT_WORK.get()) is not None and isinstance(path, str | bytes | os.PathLike):
        with suppress(OSError, ValueError, TypeError):  # the call itself says what is wrong with it
            _open(_absolute(path), flags, _writer(user))


def _open(path: str, flags: int, writer: _Writer) -> None:
    if path not in _writers:
        its_own = not os.path.lexists(path) or (flags & os.O_TRUNC and canary.may_hold(path))
        _writers[path] = writer if its_own else None
    elif _writers[path] != writer:
        _writers[path] = None
    if _writers[path] is not None:
        _unread[writer][path] = None


def _hear_rename(source: Any = None, target: Any = None, *_: Any, **__: Any) -> None:
    """A file that is written beside its place and then put there."""
    with suppress(OSError, ValueError, TypeError):
        old, new = _absolute(source), _absolute(target)
        if (writer := _writers.pop(old, None)) is not None:
            _open(new, os.O_TRUNC, writer)
        elif new in _writers:
            _writers[new] = None


def _absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100 # as cheap as can be


def _writer(user: User) -> _Writer:
    return user._cast.key, user._number


def _held(path: str) -> bytes | None:
    """What a file holds, as far as it is looked at; None if it is none."""
    try:
        if stat.S_ISREG(os.lstat(path).st_mode):
            with open(path, "rb") as file:  # noqa: PTH123
                return file.read(_LARGEST)
    except OSError:  # it is gone, or may not be read
        pass
    return None


def _shown(path: str) -> str:
    """Relative to the folder in which the tests run, if it is below."""
    with suppress(OSError, ValueError):  # somewhere else, or the folder is gone
        return str(Path(path).relative_to(Path.cwd()))
    return path
