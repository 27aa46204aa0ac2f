"""What a user saw, told so that all users tell the same story.

After names are changed, a user's own secrets read ``<note>`` whoever it is, and its id ``<user>``. Whatever still
differs between runs of the scenario by single users is unstable, and masked: by path in structured data, by word in
text. Any other difference is somebody else's doing. It finds wrong answers that carry no canary.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
_WORD = re.compile(r"[\w.:+-]+|[^\w.:+-]+")
_NUMBERS = (int, float, bool, type(None))
_OPENING = frozenset({"{", "[", b"{", b"["})
_OFTEN_SEEN = 256
_FIRST_TIME = 10**9  # since 1970, in seconds; smaller numbers are none
_TOKEN = 12  # a varying word of this length is one that was made at random
_INDEX = re.compile(r"\[\d+\]")
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


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a run departs from the story.

    Attributes:
        channel: on which channel.
        position: which observation of that channel, from 0.
        path: where in it; empty when the whole observation is missing or one too many.
        expected: what a user alone sees there; None for nothing.
        seen: what this one saw; None for nothing.
    """

    channel: str
    position: int
    path: str
    expected: str | None
    seen: str | None


class Story:
    """What the scenario shows a user who is alone, learnt from several who were.

    Args:
        solos: evidence of solo runs, two or more in all; none, and the story says nothing.
        anonymous: the story of users without credentials; one with credentials knows theirs too.
    """

    def __init__(self, solos: Sequence[Evidence], anonymous: bool = False) -> None:
        runs = [(evidence, run) for evidence in solos for run in evidence.runs]
        self._of_anonymous = self if anonymous else Story(solos, anonymous=True)
        told = [_tell(evidence, run) for evidence, run in runs if run.anonymous is anonymous]
        self._first, others = told[0] if told else {}, told[1:]
        self._names = frozenset(name for evidence in solos for name in evidence.names.values())
        self._unstable: set[tuple[str, str]] = set()
        self._lengths = {channel: len(observations) for channel, observations in self._first.items()}
        self._loose: set[str] = set()
        self._free_keys: dict[tuple[str, str], frozenset[str]] = {}
        self._words: defaultdict[tuple[str, int, str], set[int]] = defaultdict(set)
        for other in others:
            self._learn(other)

    def of(self, run: Run) -> Story:
        """The story by which a run is judged."""
        return self._of_anonymous if run.anonymous else self

    def expected(self, user: str, channel: str, position: int, path: str) -> str:
        """What a user sees at that place when alone, in words with its name in them; empty if nothing."""
        observations = self._first.get(channel, [])
        values = observations[position].get(path, ()) if position < len(observations) else ()
        return self.address(", ".join(values), user)

    def address(self, text: str, user: str) -> str:
        """A line of the story, told of this user."""
        for name in self._names:
            text = text.replace(f"<{name}>", f"<{name} of {user}>")
        return text

    def differences(self, evidence: Evidence, run: Run) -> Iterator[Difference]:
        """Where a run departs from the story, apart from what is unstable or declared as shared."""
        if (story := self.of(run)) is not self:
            yield from story.differences(evidence, run)
            return
        seen = _tell(evidence, run)
        complete = run.error is None and run.ended
        for channel in sorted(self._first.keys() | seen.keys()):
            ours, theirs = self._first.get(channel, []), seen.get(channel, [])
            for position, (expected, observed) in enumerate(zip(ours, theirs, strict=False)):
                yield from self._compare(channel, position, expected, observed)
            if channel in self._loose:
                continue
            for position in range(len(ours), len(theirs)):
                yield Difference(channel, position, "", None, _whole(theirs[position]))
            for position in range(len(theirs), len(ours)) if complete else ():
                yield Difference(channel, position, "", _whole(ours[position]), None)

    def _learn(self, other: Mapping[str, Sequence[Lines]]) -> None:
        for channel in self._first.keys() | other.keys():
            ours, theirs = self._first.get(channel, []), other.get(channel, [])
            if len(ours) != len(theirs):
                self._loose.add(channel)
            for position, (a, b) in enumerate(zip(ours, theirs, strict=False)):
                self._learn_places(channel, a.keys(), b.keys())
                for path in a.keys() & b.keys():
                    if a[path] != b[path]:
                        self._mask(channel, position, path, a[path], b[path])

    def _learn_places(self, channel: str, ours: Iterable[str], theirs: Iterable[str]) -> None:
        """What is there in one run and not in another: keys that are free, and lists whose length is."""
        mine, others = _children(ours), _children(theirs)
        for node in mine.keys() & others.keys():
            if mine[node] != others[node]:
                place = channel, _INDEX.sub("[*]", node)
                fixed = mine[node] & others[node]
                self._free_keys[place] = fixed & self._free_keys.get(place, fixed)

    def _mask(self, channel: str, position: int, path: str, a: tuple[str, ...], b: tuple[str, ...]) -> None:
        if len(a) == len(b) == 1:
            ours, theirs = _WORD.findall(a[0]), _WORD.findall(b[0])
            varying = {i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y}
            # A text of which every word varies has nothing to hold on to.
            if len(ours) == len(theirs) and len(varying) < len(ours):
                self._words[channel, position, path] |= varying
                return
        self._unstable.add((channel, _INDEX.sub("[*]", path)))

    def _compare(self, channel: str, position: int, expected: Lines, observed: Lines) -> Iterator[Difference]:
        differing = [path for path in expected.keys() | observed.keys() if expected.get(path) != observed.get(path)]
        for path in sorted(differing):
            a, b = expected.get(path), observed.get(path)
            if self._is_free(channel, path):
                continue
            if a and b and self._same_words(channel, position, path, a, b):
                continue
            if b and any(SHARED in text for text in b):
                continue
            yield Difference(channel, position, path, _joined(a), _joined(b))

    def _is_free(self, channel: str, path: str) -> bool:
        """Solo runs differed there, or in whether there is such a place at all."""
        if (channel, _everywhere(path)) in self._unstable:
            return True
        if not self._free_keys:
            return False
        steps = _STEP.findall(path)
        nodes = (("".join(map(_general, steps[:depth])), steps[depth]) for depth in range(len(steps)))
        return any(step not in self._free_keys.get((channel, node), _EVERYTHING) for node, step in nodes) or (
            # An empty list or mapping stands where its parts would.
            (channel, "".join(map(_general, steps))) in self._free_keys
        )

    def _same_words(self, channel: str, position: int, path: str, a: Sequence[str], b: Sequence[str]) -> bool:
        varying = self._words.get((channel, position, path))
        if varying is None or len(a) != 1 or len(b) != 1:
            return False
        ours, theirs = _WORD.findall(a[0]), _WORD.findall(b[0])
        if len(ours) == len(theirs) and all(
            x == y for i, (x, y) in enumerate(zip(ours, theirs, strict=True)) if i not in varying
        ):
            return True
        # A random token may hold a character that looks like the end of a word.
        pattern = "".join(
            r"\S+" if i in varying and len(word) >= _TOKEN else r"[\w.:+-]+" if i in varying else re.escape(word)
            for i, word in enumerate(ours)
        )
        return re.fullmatch(pattern, b[0]) is not None


def _tell(evidence: Evidence, run: Run) -> Mapping[str, list[Lines]]:
    label = labeller(evidence, run.number)
    story: dict[str, list[Lines]] = {}
    for channel, observations in by_channel(run.observations).items():
        values = [observation.value for observation in observations]
        if evidence.shares:
            values = list(_own_part(values, lambda hit: is_shared(evidence, run.number, hit)))
        story[channel] = [lines(value, label) for value in values]
    return story


def _own_part(values: Iterable[object], shared: Callable[[canary.Hit], bool]) -> Iterator[object]:
    """What a user would have seen if nobody else had shared anything: a feed without the posts of others."""
    for value in values:
        own = _without_shared(value, shared)
        whose = {shared(hit) for hit in _hits(own)}
        if whose != {True}:
            yield own


def _without_shared(value: object, shared: Callable[[canary.Hit], bool]) -> object:
    if isinstance(value, str | bytes) and (parsed := parse_json(value)) is not None:
        return _without_shared(parsed, shared)
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if not any(map(shared, canary.find(key)))}
        return {key: _without_shared(part, shared) for key, part in kept.items()}
    if isinstance(value, list):
        return type(value)(_without_shared(part, shared) for part in value if not any(map(shared, _hits(part))))
    return value


def _hits(value: object) -> Iterator[canary.Hit]:
    for leaf in leaves(value):
        if (text := canary.searchable(leaf.value)) is not None:
            yield from canary.find(text)


class _Everything(frozenset[str]):
    def __contains__(self, key: object) -> bool:
        return True


_EVERYTHING = _Everything()
_STEP = re.compile(r"^\$|\.[^.\[]+|\[(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\]]*)\]")


@lru_cache(maxsize=20_000)
def _everywhere(path: str) -> str:
    """The same for all elements of a list."""
    return _INDEX.sub("[*]", path)


def _general(step: str) -> str:
    """A step of a path as it counts for all elements of a list."""
    return "[*]" if _INDEX.fullmatch(step) else step


def _children(paths: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """The steps that lead on from each node; from a leaf none do."""
    children: defaultdict[str, set[str]] = defaultdict(set)
    for path in paths:
        node = ""
        for step in _STEP.findall(path):
            children[node].add(step)
            node += step
        children[node]
    return {node: frozenset(steps) for node, steps in children.items()}


def _joined(values: Sequence[str] | None) -> str | None:
    return None if values is None else ", ".join(values)


def _whole(observation: Lines) -> str:
    return "; ".join(text for values in observation.values() for text in values)
