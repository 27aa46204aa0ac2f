"""Starts the process of the earlier revision, has it run batches, and ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pytest_isolation.errors import NothingMeasured, SettingError
from pytest_isolation.latency.interleaved import Batch, Incomparable, Measured
from pytest_isolation.revision.channel import VARIABLE, Channel, Silent
from pytest_isolation.revision.worktree import Worktree

_START_S, _BATCH_S, _END_S = 120.0, 300.0, 10.0
_TAIL = 15
_NOT_CARRIED = ("--junitxml", "--junit-xml", "--rootdir")


def carried(arguments: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The command line of a session as far as the process of the earlier revision is to have it too.

    Args:
        arguments: all of it.
        paths: which of them are paths and ids of tests; the process gets its own.
    """
    rest, kept = iter(arguments), []
    for word in rest:
        if word in _NOT_CARRIED:
            next(rest, None)
        elif word not in paths and not word.startswith(tuple(f"{option}=" for option in _NOT_CARRIED)):
            kept.append(word)
    return kept


class Revision:
    """The tests of an earlier revision.

    Args:
        name: as it was asked for.
        root: pytest's root folder: the ids of tests are relative to it.
        folder: where pytest was started.
        options: its command line without the paths.

    Raises:
        SettingError: there is no such revision, or this system cannot do it.
    """

    def __init__(self, name: str, root: Path, folder: Path, options: Sequence[str]) -> None:
        if sys.platform == "win32":
            raise SettingError("--isolation-compare-rev hands an open socket to a process, which Windows does not know")
        self._worktree = Worktree(root, name)
        if not root.resolve().is_relative_to(self._worktree.top):
            raise SettingError(f"--isolation-compare-rev: {root} is not in the repository {self._worktree.top}")
        self.name = f"{name} ({self._worktree.commit})"
        self._root, self._folder, self._options = root, folder, [*options]
        self._wanted: list[str] = []
        self._there: set[str] | None = None
        self._why = ""
        self._test = ""
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def want(self, nodeids: Iterable[str]) -> None:
        """Say which tests may be compared, in the order in which they will be."""
        self._wanted = [*nodeids]

    def begin(self, nodeid: str) -> None:
        """Have the revision set up a test.

        Raises:
            Incomparable: it has no such test, or nothing at all.
        """
        if self._there is None and not self._why:
            self._start()
        if self._why:
            raise Incomparable(self._why)
        if self._there is None or nodeid not in self._there:
            raise Incomparable(f"it is new: {self.name} has no such test")
        self._test = nodeid
        self._send(begin=nodeid)

    def measure(self, batch: Batch) -> Measured:
        """Have it run a batch of the test, and wait.

        Raises:
            Incomparable: the test fails there, or the process has ended.
            NothingMeasured: it runs the code of this revision.
        """
        self._send(batch=[*batch])
        answer = self._receive(_BATCH_S)
        while answer.get("test") != self._test:  # of the one before, which failed while it was torn down
            answer = self._receive(_BATCH_S)
        if "failed" in answer:
            raise Incomparable(f"in {self.name} it fails: {answer['failed']}")
        if answer["foreign"]:
            raise NothingMeasured(
                f"the tests of {self.name} import {', '.join(answer['foreign'][:5])} from {self._worktree.top}, so "
                "both sides would be the same code. Let it be imported from where pytest's root folder is: install "
                "it so that it is found through sys.path, or set pytest's `pythonpath`"
            )
        measured: Measured = answer["measured"]
        return measured

    def end(self) -> None:
        """Have it tear the test down."""
        if self._channel is not None and self._test:
            self._send(end=self._test)
        self._test = ""

    def close(self) -> None:
        """End the process, and remove what was made for it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        try:
            if self._process is not None:
                try:
                    self._process.wait(_END_S)
                except subprocess.TimeoutExpired:
                    os.killpg(self._process.pid, signal.SIGKILL)
                    self._process.wait()
        finally:
            self._worktree.remove()

    def _start(self) -> None:
        self._worktree.add()
        files = dict.fromkeys(self._counterpart(self._root / nodeid.split("::")[0]) for nodeid in self._wanted)
        there = [str(file) for file in files if file is not None and file.exists()]
        if not there:
            self._why = f"it is new: {self.name} has none of these tests"
            return
        ours, theirs = socket.socketpair()
        root, folder = self._counterpart(self._root), self._counterpart(self._folder)
        command = [sys.executable, "-m", "pytest", *self._options, "--maxfail=0", f"--rootdir={root}", *there]
        with theirs, (self._worktree.temporary / "output").open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                command,
                cwd=folder if folder is not None and folder.is_dir() else root,
                env={**os.environ, VARIABLE: str(theirs.fileno()), "PYTHONPATH": os.pathsep.join(self._path())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for this process, which ends the other one
            )
        self._channel = Channel(ours.detach())
        try:
            self._send(wanted=self._wanted, top=str(self._worktree.top))
            self._there = {*self._receive(_START_S)["there"]}
        except Incomparable as error:
            self._why = str(error)

    def _counterpart(self, path: Path) -> Path | None:
        return self._worktree.counterpart(path)

    def _path(self) -> Iterable[str]:
        """Where the process looks for modules first: wherever this one does in the project, but in the worktree."""
        known = [Path(entry or ".") for entry in sys.path]
        # Editable installs may add a finder instead of a path; what is imported already tells where it looks.
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if "." not in name and isinstance(file, str):
                path = Path(file)
                known.append(path.parents[1] if path.name == "__init__.py" else path.parent)
        mapped = dict.fromkeys(filter(None, map(self._counterpart, known)))
        return [*map(str, mapped), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]

    def _send(self, **message: Any) -> None:
        try:
            if self._channel is not None:
                self._channel.send(**message)
        except Silent:
            raise Incomparable(self._end_of_it()) from None

    def _receive(self, patience_s: float) -> dict[str, Any]:
        if self._channel is None:
            raise Incomparable(self._why)
        try:
            return self._channel.receive(patience_s)
        except Silent as error:
            raise Incomparable(self._end_of_it(str(error))) from None

    def _end_of_it(self, how: str = "it has ended") -> str:
        """What to say of a process that is not there any more; from now on it is not asked again."""
        said = (self._worktree.temporary / "output").read_text(errors="replace").strip().splitlines()[-_TAIL:]
        tail = "".join(f"\n  {line}" for line in said)
        self._why = f"the process of {self.name} cannot be asked: {how}.{' It said last:' if tail else ''}{tail}"
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        return self._why
