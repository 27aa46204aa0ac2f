"""What the person who runs the tests has asked for: command line, environment and ini file, as one frozen value.

Every setting is declared once, in ``SETTINGS``: ``--isolation-users=8`` comes before ``ISOLATION_USERS=8``, which
comes before ``isolation_users = 8`` in ``pytest.ini`` or ``[tool.pytest]``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_isolation.errors import SettingError


class Setting(NamedTuple):
    """One thing that can be asked for.

    Attributes:
        name: ``users`` for ``--isolation-users``, ``ISOLATION_USERS`` and ``isolation_users``.
        help: one line for ``--help``.
        read: turns a text (or a typed ini value) into the value; raises ValueError with the right form.
        metavar: what ``--help`` shows for the value; None for a flag.
        repeatable: may be given several times.
        only_ini: stands in the ini file alone.
    """

    name: str
    help: str
    read: Callable[[Any], Any]
    metavar: str | None = None
    repeatable: bool = False
    only_ini: bool = False

    @property
    def option(self) -> str:
        """On the command line."""
        return "--isolation-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        """In the ini file, and in pytest's own namespace of options."""
        return "isolation_" + self.name

    @property
    def variable(self) -> str:
        """In the environment."""
        return "ISOLATION_" + self.name.upper()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that was asked for.

    Attributes:
        budget: CI mode: sample until decided, print the table.
        backend: ``pkg.mod:factory`` of the backend under test; None is the reference backend.
        users: how many users play, whatever the markers say; None leaves it to them.
        default_users: how many play where the marker does not say.
        seed: determines every canary; None picks one.
        max_seconds: sampling stops after this time; None is 1 s, and 10 s in CI mode.
        max_samples: sampling stops after this many runs of the body.
        undecided: what an undecided budget means in CI mode, ``warn`` or ``fail``.
        replay: the token of a finding that is to be played again.
        report: where to write reports.
        save: store the samples of this session under this name.
        compare: judge against those that were stored under this name.
        compare_rev: run the same tests of this git revision in turn with those of this session.
        allow_remote: the application under test may be a URL of another machine.
        budgets: what spans are judged by at the end of the session, in CI mode; a line each.
        heap_allow: what may keep something of a user in memory: patterns of ways to it, each with a reason.
    """

    budget: bool = False
    backend: str | None = None
    users: int | None = None
    default_users: int = 100
    seed: int | None = None
    max_seconds: float | None = None
    max_samples: int = 2000
    undecided: str = "warn"
    replay: str | None = None
    report: tuple[Path, ...] = ()
    save: str | None = None
    compare: str | None = None
    compare_rev: str | None = None
    allow_remote: bool = False
    budgets: tuple[str, ...] = ()
    heap_allow: tuple[tuple[str, str], ...] = ()

    @property
    def sampling_seconds(self) -> float:
        """How long one test is sampled at most."""
        return self.max_seconds or (10.0 if self.budget else 1.0)

    @property
    def fails_on_doubt(self) -> bool:
        """An undecided budget fails its test."""
        return self.budget and self.undecided == "fail"


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ValueError("true or false")
    return text in ("1", "true", "yes", "on")


def _whole(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = least - 1
        if number < least:
            raise ValueError(f"a whole number ≥ {least}")
        return number

    return read


def _seconds(value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not (isfinite(number) and number > 0):
        raise ValueError("a number of seconds > 0")
    return number


def _choice(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(" or ".join(choices))
        return str(value)

    return read


def _target(value: object) -> str:
    module, colon, factory = str(value).partition(":")
    parts = [*module.split("."), *factory.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError("MODULE:FACTORY, for example shop.backend:create")
    return str(value)


def _name(value: object) -> str:
    name = str(value)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError("a name of letters, digits, dots, dashes and underscores, such as main")
    return name


def _given(value: object) -> str:
    if not str(value).strip():
        raise ValueError("what git takes for a commit, such as main or HEAD~1")
    return str(value)


def _allowance(value: object) -> tuple[str, str]:
    pattern, colon, reason = (part.strip() for part in str(value).partition(": "))
    if not (pattern and colon and reason):
        raise ValueError("a pattern of what is kept by, and why that may be: shop.NOTES*: the notes of all users")
    return pattern, reason


def _report(value: object) -> Path:
    path = Path(str(value))
    if path.suffix != ".json":
        raise ValueError("a path that ends in .json; no other form of report is written yet")
    return path


SETTINGS = (
    Setting("budget", "judge every latency budget until it is decided, and print the table (CI mode)", _flag),
    Setting(
        "backend", "the backend under test, made by FACTORY() (default: reference_impl)", _target, "MODULE:FACTORY"
    ),
    Setting("users", "how many users play every isolation scenario, whatever its marker says", _whole(1), "N"),
    Setting("seed", "makes all canaries the same as in a run with this seed", _whole(0), "N"),
    Setting(
        "max_seconds", "sample a test for at most S seconds (default: 1, with --isolation-budget 10)", _seconds, "S"
    ),
    Setting("max_samples", "sample a test's body at most N times (default: 2000)", _whole(20), "N"),
    Setting("undecided", "what an undecided budget means in CI mode: warn or fail", _choice("warn", "fail"), "WHAT"),
    Setting("replay", "play again what a finding was found by: its report prints the token", str, "TOKEN"),
    Setting("report", "write a machine-readable report to PATH.json", _report, "PATH", repeatable=True),
    Setting("save", "store the samples of this session as the baseline NAME (.isolation/NAME.json)", _name, "NAME"),
    Setting("compare", "judge what is slower than in the baseline NAME", _name, "NAME"),
    Setting("compare_rev", "run latency tests in turn with those of the git revision REV, and judge", _given, "REV"),
    Setting("allow_remote", "let isolation_app be a URL of another machine, which is then sent crowds", _flag),
    Setting(
        "budgets",
        "budgets on spans over the whole session, judged with --isolation-budget: agent.create p95 < 10ms, p99 < 20ms",
        str,
        "LINES",
        repeatable=True,
        only_ini=True,
    ),
    Setting(
        "heap_allow",
        "what may keep something of a user in memory, and why, a line each: shop.NOTES*: the notes of all users",
        _allowance,
        "LINES",
        repeatable=True,
        only_ini=True,
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare every setting as an option and as an ini value."""
    group = parser.getgroup("isolation", "request isolation (pytest-isolation)")
    for setting in SETTINGS:
        if setting.metavar is None:
            kind: Mapping[str, Any] = {"action": "store_true"}
        else:
            kind = {"action": "append" if setting.repeatable else "store", "metavar": setting.metavar}
        if not setting.only_ini:
            group.addoption(setting.option, dest=setting.ini, default=None, help=setting.help, **kind)
        parser.addini(setting.ini, setting.help, type=_ini_type(setting), default=None)


def _ini_type(setting: Setting) -> Any:
    """A type that takes native TOML values on pytest 9 and texts on any version."""
    if setting.metavar is None:
        return "bool"
    if setting.repeatable:
        return "linelist"
    numeric = setting.name in ("users", "seed", "max_samples", "max_seconds")
    if numeric and pytest.version_tuple >= (8, 4):
        return "float" if setting.name == "max_seconds" else "int"
    return "string"


def read_settings(config: pytest.Config, environment: Mapping[str, str] = os.environ) -> Settings:
    """Bring command line, environment and ini file together.

    Raises:
        SettingError: a value is impossible: which one, where it stands, and the right form.
    """
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        for where, raw in (
            (setting.option, config.getoption(setting.ini, default=None)),
            (setting.variable, None if setting.only_ini else environment.get(setting.variable) or None),
            (f"{setting.ini} in the ini file", _ini_value(config, setting)),
        ):
            if raw is not None:
                value = _read(setting, where, raw)
                if setting.name == "report" and where.startswith(setting.ini):
                    value = tuple(config.rootpath / path for path in value)
                ini_users = setting.name == "users" and where.startswith(setting.ini)
                values["default_users" if ini_users else setting.name] = value
                break
    return Settings(**values)


def _ini_value(config: pytest.Config, setting: Setting) -> Any:
    try:
        return config.getini(setting.ini)
    except (ValueError, TypeError, pytest.UsageError) as error:
        raise SettingError(f"{setting.ini} in the ini file: {error}") from None


def _read(setting: Setting, where: str, raw: Any) -> Any:
    try:
        if setting.repeatable:
            return tuple(setting.read(part) for part in ([raw] if isinstance(raw, str) else raw))
        return setting.read(raw)
    except ValueError as error:
        shown = ", ".join(raw) if isinstance(raw, list) else raw
        raise SettingError(f"{where}: {shown!r} is not possible; it takes {error}") from None
