"""An earlier revision of the project, in a folder of its own for as long as it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_isolation.errors import SettingError

_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
_OPTION = "--isolation-compare-rev"


class Worktree:
    """A git worktree of one commit.

    Args:
        project: a folder in the repository.
        revision: what git takes for a commit: a branch, a tag, ``HEAD~1``, a hash.

    Attributes:
        top: the folder of the repository itself.
        commit: the abbreviated hash.
        folder: of the worktree; there is one from ``add`` to ``remove``.

    Raises:
        SettingError: there is no git, no repository, or no such commit.
    """

    def __init__(self, project: Path, revision: str) -> None:
        self._project = project
        self.top = Path(self._git("rev-parse", "--show-toplevel")).resolve()
        try:
            self._hash = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except SettingError:
            raise SettingError(
                f"{_OPTION}={revision}: git knows no such commit in {self.top}; "
                "name a branch, a tag or a hash, such as main or HEAD~1 (in CI it has to be fetched)"
            ) from None
        self.commit = self._git("rev-parse", "--short", self._hash)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def temporary(self) -> Path:
        """A folder beside the worktree, for what belongs to neither revision."""
        assert self._temporary is not None
        return Path(self._temporary.name).resolve()

    @property
    def folder(self) -> Path:
        """Where the files of the revision are."""
        return self.temporary / "worktree"

    def counterpart(self, path: Path) -> Path | None:
        """Where the revision has what this project has there; None for what is not the project's own."""
        path = path.resolve()
        # An environment often lies in the folder of the project, and belongs to no revision.
        if not path.is_relative_to(self.top) or path.is_relative_to(Path(sys.prefix).resolve()):
            return None
        return self.folder / path.relative_to(self.top)

    def add(self) -> None:
        """Write the files of the revision.

        Raises:
            SettingError: git could not.
        """
        self._temporary = tempfile.TemporaryDirectory(prefix="pytest-isolation-", ignore_cleanup_errors=True)
        self._git("worktree", "add", "--quiet", "--detach", str(self.folder), self._hash)

    def remove(self) -> None:
        """Leave nothing behind, neither in the repository nor beside it."""
        if self._temporary is None:
            return
        try:
            if self.folder.exists():
                self._git("worktree", "remove", "--force", "--force", str(self.folder))
        finally:
            self._temporary.cleanup()
            self._temporary = None

    def _git(self, *words: str) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - no shell
                ("git", *words),  # noqa: S607 - whichever is in the PATH
                cwd=self._project,
                # A hook of git is run with these, which would win over the folder.
                env={name: value for name, value in os.environ.items() if name not in _OF_A_HOOK},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise SettingError(f"{_OPTION} needs git, which could not be run: {error}") from error
        if done.returncode:
            raise SettingError(f"{_OPTION}: git {words[0]}: {done.stderr.strip() or 'it failed'}")
        return done.stdout.strip()
