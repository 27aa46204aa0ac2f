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
from weakref import WeakKeyDictionary

from pytest_isolation.model import Observation, Run
from pytest_isolation.phases.hearing import told_all
from pytest_isolation.users import canary
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import Cast, User

_LARGEST = 1024 * 1024
_MOST = 100
_MODES = frozenset("wax+")


class _Written:
    """What the users of one cast have written.

    Attributes:
        writers: by path, the number of who wrote it; None is several, or somebody who came before.
        unread: the files of each user, by its number, that nobody has looked at.
        stale: what holds secrets that its user has no more, until it is written anew.
    """

    def __init__(self) -> None:
        self.writers: dict[str, int | None] = {}
        self.unread: defaultdict[int, dict[str, None]] = defaultdict(dict)
        self.stale: set[str] = set()

    def opened(self, path: str, flags: int, writer: int) -> None:
        """A user's work opens a file for writing."""
        if path not in self.writers:
            its_own = not os.path.lexists(path) or (flags & os.O_TRUNC and canary.may_hold(path))
            self.writers[path] = writer if its_own else None
        elif self.writers[path] != writer:
            self.writers[path] = None
        if self.writers[path] is not None:
            self.unread[writer][path] = None
        if path in self.stale and (flags & os.O_TRUNC or not os.path.lexists(path)):
            self.stale.discard(path)

    def taken(self, writer: int) -> list[str]:
        """The files of a user's own that nobody has looked at; they are handed out once."""
        files = self.unread.pop(writer, ())
        return [path for path in files if self.writers.get(path) == writer and path not in self.stale]

    def renamed(self, old: str, new: str) -> None:
        """A file that is written beside its place and then put there."""
        if (writer := self.writers.pop(old, None)) is not None:
            self.opened(new, os.O_TRUNC, writer)
        elif new in self.writers:
            self.writers[new] = None


# All that is known of a cast goes with it: an exploration writes in thousands of runs.
_written: WeakKeyDictionary[Cast, _Written] = WeakKeyDictionary()


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
    written = _written.get(user._cast)
    if written is None or not written.unread:
        return run
    own = written.taken(user._number)[:_MOST]
    files = [Observation("file", {_shown(path): held}) for path in own if (held := _held(path)) is not None]
    return replace(run, overheard=(*run.overheard, *files)) if files else run


def have_written(cast: Cast) -> bool:
    """Users of a cast have written files that nobody has looked at."""
    written = _written.get(cast)
    return written is not None and bool(written.unread)


def forget_files(user: User) -> None:
    """What its user's work has written holds secrets that it will not have from now on."""
    if (written := _written.get(user._cast)) is not None:
        written.stale.update(written.taken(user._number))


def _hear_open(file: Any = None, mode: Any = "r", *_: Any, **__: Any) -> None:
    if isinstance(mode, str) and not _MODES.isdisjoint(mode):
        _note(file, os.O_TRUNC if "w" in mode else 0)


def _hear_system_open(path: Any = None, flags: Any = 0, *_: Any, **named: Any) -> None:
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) and named.get("dir_fd") is None:
        _note(path, flags)


def _note(path: Any, flags: int) -> None:
    if (user := AT_WORK.get()) is not None and isinstance(path, str | bytes | os.PathLike):
        with suppress(OSError, ValueError, TypeError):  # the call itself says what is wrong with it
            _written.setdefault(user._cast, _Written()).opened(_absolute(path), flags, user._number)


def _hear_rename(source: Any = None, target: Any = None, *_: Any, **__: Any) -> None:
    """Whoever does it, at work for a user or not."""
    if _written:
        with suppress(OSError, ValueError, TypeError):
            old, new = _absolute(source), _absolute(target)
            for written in [*_written.values()]:
                written.renamed(old, new)


def _absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100 # as cheap as can be


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
