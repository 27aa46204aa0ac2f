"""What the options of our commands have in common: how numbers, names and paths are read."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from pytest_isolation.errors import MisuseError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FORMS = {"backend": "shop.backend:create", "app": "shop.app:app", "token": "shop.auth:token"}


@dataclass(frozen=True, slots=True)
class _Number:
    """Reads a number of an option."""

    kind: Callable[[str], float]
    least: float
    form: str
    includes_least: bool

    def __call__(self, text: str) -> Any:
        try:
            number = self.kind(text)
        except ValueError:
            number = float("nan")
        if not isfinite(number) or number < self.least or (number == self.least and not self.includes_least):
            raise argparse.ArgumentTypeError(f"it takes {self.form}, not {text!r}")
        return number


def whole(least: int) -> _Number:
    """Reads a whole number that is not less."""
    return _Number(int, least, f"a whole number ≥ {least}", includes_least=True)


def number() -> _Number:
    """Reads a number that is more than nothing."""
    return _Number(float, 0.0, "a number > 0", includes_least=False)


def find_modules(**named: str | None) -> None:
    """Let modules be found in the folder in which the command was typed, and look at their names.

    Args:
        named: what was given for each option, ``MOD:NAME``; None if nothing was.

    Raises:
        MisuseError: one of them is no name: which, and the right form.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # as uvicorn and `python -m` find what lies in the folder
    for option, name in named.items():
        if name is not None and not _NAME.fullmatch(name):
            raise MisuseError(f"--{option} takes a module and a name in it, such as {_FORMS[option]}, not {name!r}")


def check_save(path: Path | None) -> None:
    """Notice before the work that its report could not be written after it.

    Raises:
        MisuseError: it could not.
    """
    if path is None:
        return
    if path.suffix != ".json" or path.is_dir():
        raise MisuseError(f"--save takes the path of a file that ends in .json, not {str(path)!r}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MisuseError(f"--save {path}: {error}") from error
