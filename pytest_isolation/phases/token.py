"""Replay tokens: a phase, and all it needs to be played the same way again."""

from __future__ import annotations

import platform
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pytest_isolation import __version__
from pytest_isolation.errors import TokenError
from pytest_isolation.phases.strategies import ORDERS, Deviations

_FORM = (
    "the form is crowd:USERS:SEED, test:SEED, cancel:POINT:SEED:CHECK, fault:POINT:EXCEPTION:SEED:CHECK or "
    "explore:USERS:SEED:ORDER:DECISIONS:CHECK, for example crowd:100:4242, as the report of a finding prints it"
)
_POINT = r"(?:(?P<after>[0-9]+)\+)?(?P<point>[0-9]+)"
_CHECK = r"(?P<check>[0-9a-f]{8})"
_DECISION = "[0-9]+=[1-9][0-9]*"
_DECISIONS = rf"(?P<deviations>(?:{_DECISION}(?:,{_DECISION})*)?)"
_VARIED = r"(?::(?P<varied>[0-9]+)\.(?P<variant>[0-9]+))?"
# Which of several checks of a test it is, and what it was made with.
_TAIL = r"(?:/(?P<part>[1-9][0-9]*))?(?:@(?P<made>[\w.+-]+))?"
_FORMS = tuple(
    re.compile(form + _TAIL)
    for form in (
        r"test:(?P<seed>[0-9]+)",
        r"crowd:(?P<users>[0-9]+):(?P<seed>[0-9]+)",
        rf"cancel:{_POINT}:(?P<seed>[0-9]+):{_CHECK}",
        rf"fault:{_POINT}:(?P<fault>[^:\s]+):(?P<seed>[0-9]+):{_CHECK}",
        rf"explore:(?P<users>[0-9]+):(?P<seed>[0-9]+):(?P<order>{'|'.join(ORDERS)}):{_DECISIONS}:{_CHECK}{_VARIED}",
    )
)
# A run has some thousands of decisions at the most.
_MOST_DECISIONS = 1_000_000
_MOST_DIGITS = 30
MOST_EXPLORED = 100
"""So many users at once can be explored."""


@cache
def versions() -> str:
    """What code a token was made with: of this plugin, of Python, and a check of all packages that are installed."""
    found = sorted({path.name for folder in sys.path for path in Path(folder).glob("*.dist-info")})
    packages = zlib.crc32("|".join(found).encode())
    return f"{__version__}-{platform.python_version()}-{packages:08x}"


@dataclass(frozen=True, slots=True)
class Token:
    """What ``--isolation-replay`` plays again.

    Attributes:
        seed: of the session in which it was found.
        users: how many play at once; None where the test itself says so.
        point: the suspension point at which a user is cut; None cuts nobody.
        fault: the name of the exception that is raised there; empty cancels.
        check: of the code around the point (``driver.Point.check``), or of the decisions up to the last deviation.
        order: what an explored schedule does by default; empty where none is explored.
        deviations: the decisions in which it differs from that, each with its place.
        varied: the place of the user who has other secrets than usual; None if nobody has.
        variant: which other ones.
        after: the point at which another user is cut before, so that the backend is cold; None where nobody is.
        part: which of several checks of the test, from 1; None where there is one.
        made: what it was made with (``versions``); empty where that is not known. Of two tokens that differ in nothing
            else, both play the same.
    """

    seed: int
    users: int | None = None
    point: int | None = None
    fault: str = ""
    check: str = ""
    order: str = ""
    deviations: Deviations = ()
    varied: int | None = None
    variant: int = 0
    after: int | None = None
    part: int | None = None
    made: str = field(default_factory=versions, compare=False)

    def __str__(self) -> str:
        tail = (f"/{self.part}" if self.part else "") + (f"@{self.made}" if self.made else "")
        if self.order:
            decisions = ",".join(f"{place}={value}" for place, value in self.deviations)
            varied = "" if self.varied is None else f":{self.varied}.{self.variant}"
            return f"explore:{self.users}:{self.seed}:{self.order}:{decisions}:{self.check}{varied}{tail}"
        if self.point is not None:
            point = f"{self.point}" if self.after is None else f"{self.after}+{self.point}"
            what = f"fault:{point}:{self.fault}" if self.fault else f"cancel:{point}"
            return f"{what}:{self.seed}:{self.check}{tail}"
        return f"test:{self.seed}" if self.users is None else f"crowd:{self.users}:{self.seed}"

    @property
    def age(self) -> str:
        """How what it was made with differs from what is here, in words; empty if it does not, or is not known."""
        if self.made in ("", versions()):
            return ""
        pairs = zip(self.made.split("-"), versions().split("-"), strict=False)
        (plugin, ours), (python, this), *_ = [*pairs, ("?", "?"), ("?", "?")]
        told = [f"pytest-isolation {plugin}, which is {ours} now"] if plugin != ours else []
        told += [f"Python {python}, which is {this} now"] if python != this else []
        return f"it was made with {' and '.join(told or ['other packages'])}"


def parse(text: str) -> Token:
    """Read a token.

    Raises:
        TokenError: it is none.
    """
    match = next(filter(None, (form.fullmatch(text) for form in _FORMS)), None)
    if match is None:
        raise TokenError(f"{text!r} is no replay token: {_FORM}")
    if re.search(rf"[0-9]{{{_MOST_DIGITS + 1},}}", text):
        raise TokenError(f"{text[:_MOST_DIGITS]!r}… is no replay token: no number in one is that long; {_FORM}")
    said = match.groupdict()
    names = ("seed", "users", "point", "after", "part", "varied", "variant")
    numbers = {name: int(said[name]) for name in names if said.get(name)}
    if numbers.get("users") == 0:
        raise TokenError(f"{text!r} would be played by nobody: {_FORM}")
    if said.get("order") and numbers["users"] > MOST_EXPLORED:
        raise TokenError(
            f"{text!r} would be played by more than {MOST_EXPLORED} users, which cannot be explored: {_FORM}"
        )
    if numbers.get("varied", 0) >= numbers.get("users", 1):
        raise TokenError(f"{text!r} gives other secrets to user {said['varied']}, the first of whom is 0: {_FORM}")
    return Token(
        **numbers,
        fault=said.get("fault") or "",
        check=said.get("check") or "",
        order=said.get("order") or "",
        deviations=_read(text, said.get("deviations") or ""),
        made=said.get("made") or "",
    )


def check_of(options: Sequence[int], deviations: Deviations) -> str:
    """A check sum of what a run could decide among, up to the last deviation: other code has other decisions."""
    until = deviations[-1][0] + 1 if deviations else 0
    return f"{zlib.crc32(repr([*options[:until]]).encode()):08x}"


def _read(text: str, decisions: str) -> Deviations:
    pairs = (pair.split("=") for pair in decisions.split(",") if pair)
    deviations = tuple((int(place), int(value)) for place, value in pairs)
    places = [place for place, _ in deviations]
    if places != sorted(set(places)) or any(place >= _MOST_DECISIONS for place in places):
        raise TokenError(f"{text!r} is no replay token: its decisions stand in order, each once; {_FORM}")
    return deviations
