"""What a user saw, as lines that read the same whoever it is: names are changed, and what is volatile is left out.

A user's own secrets read ``<note>`` whoever it is, and its id ``<user>``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from pytest_isolation.model import Evidence, Observation, Run
from pytest_isolation.users import canary
from pytest_isolation.users.cast import is_shared, owner_of
from pytest_isolation.users.snapshot import Bag

SHARED = "<shared "
NOBODY = -1

Atom = None | bool | int | float | str | bytes

_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d+)?"
_ZONE = r"(?: ?(?:Z|GMT|UTC|[+-]\d\d:?\d\d)\b)?"
_DAY = r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
# Two solo runs within one second agree on these by accident, so they are never compared.
_VOLATILE = re.compile(
    rf"(?P<time>\b\d{{4}}([-/])\d\d\2\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)?{_ZONE}(?!\d)"
    rf"|\b\d{{8}}T\d{{6}}(?:[.,]\d+)?{_ZONE}(?!\d)"
    rf"|{_DAY},? \d\d?[ -]{_MONTH}[ -]\d{{2,4}} {_CLOCK}{_ZONE}"
    rf"|\b\d\d/{_MONTH}/\d{{4}}:{_CLOCK}{_ZONE}"
    rf"|{_DAY} {_MONTH} [ \d]\d {_CLOCK}(?: \w+)? \d{{4}}\b"
    rf"|\b{_CLOCK}{_ZONE}(?!\d)"
    r"|\b1[6-9]\d{8}(?:\d{3}){0,3}(?:\.\d+)?\b)"
    r"|(?P<address>\b0x[0-9a-f]{6,}\b)"
)
_MAYBE_VOLATILE = re.compile(r"[0-9](?:[0-9](?::[0-9]|[0-9]{2}(?:[-/][0-9]|[0-9]{4}))|x)")
# What stands under such a name says how long something took.
_DURATION = re.compile(
    r"(?:^|[._\-'])(?:took|elapsed|duration|latency|uptime|runtime|process(?:ing)?[_-]?time|response[_-]?time|server-timing|age)"
    r"(?:[_-]?(?:in[_-])?(?:ns|us|ms|s|secs?|seconds|millis|milliseconds))?(?:'\])?$",
    re.IGNORECASE,
)
_FIGURE = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NUMBERS = (int, float, bool, type(None))
_OPENING = frozenset({"{", "[", b"{", b"["})
_OFTEN_SEEN = 256
_FIRST_TIME = 10**9  # since 1970, in seconds; smaller numbers are none
_BEFORE = 40  # so much is shown before a difference


class Leaf(NamedTuple):
    """One plain value inside an observation, and where it stands (``$.messages[2].text``)."""

    path: str
    value: Atom


def leaves(value: object, path: str = "$") -> list[Leaf]:
    """The plain values inside a snapshot; a text that is JSON is taken apart too.

    Args:
        value: from ``snapshot``.
        path: where it stands.
    """
    found: list[Leaf] = []
    _collect(value, path, found)
    return found


def _collect(value: object, path: str, found: list[Leaf]) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            if type(part) in _NUMBERS or (type(part) is str and part[:1] not in _OPENING):  # most are, and need no call
                found.append(Leaf(_below(path, key), part))
            else:
                _collect(part, _below(path, key), found)
    elif isinstance(value, list):
        is_bag = isinstance(value, Bag)
        for index, part in enumerate(value):
            _collect(part, f"{path}[*]" if is_bag else f"{path}[{index}]", found)
    elif isinstance(value, str | bytes) and (parsed := parse_json(value)) is not None:
        _collect(parsed, path, found)
        return
    else:
        found.append(Leaf(path, value))  # type: ignore[arg-type]
        return
    if not value:
        found.append(Leaf(path, f"<empty {'mapping' if isinstance(value, dict) else 'list'}>"))


def keys(value: object) -> Mapping[str, str]:
    """All keys inside a snapshot in which a canary has room, each with the first place where it stands."""
    found: dict[str, str] = {}
    _collect_keys(value, "$", found)
    return found


def _collect_keys(value: object, path: str, found: dict[str, str]) -> None:
    if isinstance(value, str | bytes):
        if value[:1] not in _OPENING:
            return
        value = parse_json(value)
    if isinstance(value, dict):
        for key, part in value.items():
            below = _below(path, key)
            if len(key) >= canary.SHORTEST:
                found.setdefault(key, below)
            if type(part) not in _NUMBERS:
                _collect_keys(part, below, found)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _collect_keys(part, f"{path}[{index}]", found)


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]"


def parse_json(value: str | bytes) -> object:
    """The structure behind a JSON text, None if it is none."""
    if value[:1] not in _OPENING:
        return None
    try:
        return json.loads(value, object_pairs_hook=_all_pairs)
    except (ValueError, RecursionError):
        return None


def _all_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object with every pair in it, also where a key stands twice."""
    mapping: dict[str, object] = {}
    for key, part in pairs:
        while key in mapping:
            key += "'"
        mapping[key] = part
    return mapping


def rename(value: str | bytes, label: Callable[[canary.Hit], str]) -> str:
    """The readable text with every canary replaced by its label."""
    text, hits = canary.read(value)
    parts, at = [], 0
    for hit in hits:
        if hit.start >= at:
            parts += [text[at : hit.start], label(hit)]
            at = hit.stop
    return "".join([*parts, text[at:]])


def labeller(evidence: Evidence, number: int) -> Callable[[canary.Hit], str]:
    """How one user's story calls canaries: its own by their name alone, so that all users tell the same.

    Told by ``NOBODY``, every canary says whose it is.
    """

    def label(hit: canary.Hit) -> str:
        name = evidence.names.get(hit.name, hit.name or "secret")
        owner = owner_of(evidence, hit)
        if owner is None:
            return f"<{name} of another test>"
        if owner == number:
            return "<user>" if name == "id" else f"<{name}>"
        if is_shared(evidence, number, hit):
            return f"{SHARED}{name}>"
        return f"<{name} of {evidence.labels.get(owner, owner)}>"

    return label


def plainly(value: Atom, label: Callable[[canary.Hit], str]) -> str:
    """One plain value as a line of the story: names changed, times and addresses left out."""
    if isinstance(value, str) and len(value) <= _OFTEN_SEEN and (line := _bare(value)) is not None:
        return line
    return _written(value, label)


@lru_cache(maxsize=20_000)
def _bare(text: str) -> str | None:
    """The line of a text without canaries, None for one with: all users see mostly the same."""
    return None if canary.find(text) else _written(text, lambda _: "")


def _written(value: Atom, label: Callable[[canary.Hit], str]) -> str:
    text = value if isinstance(value, str | bytes) else canary.searchable(value)
    return _stable(_repr(value) if text is None else rename(text, label))


def _readable(value: Atom) -> str:
    """A value without canaries, as ``rename`` would have it."""
    return value.replace("\0", "") if isinstance(value, str) else str(canary.searchable(value) or _repr(value))


def _line(value: Atom) -> str:
    """The line of a value without canaries."""
    if isinstance(value, int | float) and -_FIRST_TIME < value < _FIRST_TIME:
        return repr(value)
    return _stable(_readable(value))


def _stable(text: str) -> str:
    """A text without times and addresses."""
    if _MAYBE_VOLATILE.search(text) is None:  # a twentieth of the price
        return text
    return _VOLATILE.sub(lambda match: "<address>" if match["address"] else "<time>", text)


def _timeless(path: str, text: str) -> str:
    """A line without its figures, where its name says that they are a duration."""
    return _FIGURE.sub("<duration>", text) if _is_duration(path) else text


@lru_cache(maxsize=20_000)
def _is_duration(path: str) -> bool:
    return _DURATION.search(path) is not None


_may_hold = lru_cache(maxsize=20_000)(canary.may_hold)


def _repr(value: Atom) -> str:
    try:
        return repr(value)
    except ValueError:  # an int of thousands of digits, which Python prints in no other way
        return hex(value) if isinstance(value, int) else "?"


def place(run: Run, channel: str, position: int, path: str) -> str:
    """Where something stands, in words: ``response 2 of 5, at $.text``."""
    count = sum(observation.channel == channel for observation in run.observations)
    which = f"{channel} {position + 1} of {count}" if count > 1 and position < count else channel
    return which if path in ("", "$") else f"{which}, at {path}"


def shorten(text: str, most: int = 300, start: int = 0) -> str:
    """A text that fits into a report.

    Args:
        text: any.
        most: so many characters of it.
        start: where what matters begins; it counts only if all of it would be too long.
    """
    if len(text) <= most:
        return text
    after = "…" if len(text) > start + most else ""
    return f"{'…' if start else ''}{text[start : start + most]}{after} ({len(text):,} characters)"


def contrast(expected: str, seen: str) -> tuple[str, str]:
    """Two texts that fit into a report, each from shortly before their first difference on."""
    pairs = enumerate(zip(expected, seen, strict=False))
    common = next((at for at, (ours, theirs) in pairs if ours != theirs), min(len(expected), len(seen)))
    start = max(0, common - _BEFORE)
    return shorten(expected, start=start), shorten(seen, start=start)


Lines = Mapping[str, tuple[str, ...]]


def lines(value: object, label: Callable[[canary.Hit], str]) -> Lines:
    """A snapshot as lines by path; a path inside a bag has several, in no order."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    all_leaves = leaves(value)
    worth = canary.suspects([leaf.value for leaf in all_leaves])
    for index, leaf in enumerate(all_leaves):
        path = rename(leaf.path, label) if _may_hold(leaf.path) else leaf.path
        line = plainly(leaf.value, label) if index in worth else _line(leaf.value)
        found[path].append(_timeless(path, line))
    return {path: tuple(sorted(values)) for path, values in found.items()}


def by_channel(observations: Iterable[Observation]) -> Mapping[str, list[Observation]]:
    """Observations in order, each channel for itself: order between channels means nothing."""
    channels: defaultdict[str, list[Observation]] = defaultdict(list)
    for observation in observations:
        channels[observation.channel].append(observation)
    return channels
