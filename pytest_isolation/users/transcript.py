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

from pytest_isolation.model import Evidence, Observation, Run
from pytest_isolation.users import canary
from pytest_isolation.users.cast import is_shared
from pytest_isolation.users.snapshot import Bag

SHARED = "<shared "
NOBODY = -1

Atom = None | bool | int | float | str | bytes

# Two solo runs within one second agree on these by accident, so they are never compared.
_VOLATILE = re.compile(
    r"(?P<time>\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)?(?:Z|[+-]\d\d:?\d\d)?(?!\d)"
    r"|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\b"
    r"|\b1[6-9]\d{8}(?:\d{3}){0,3}(?:\.\d+)?\b)"
    r"|(?P<address>\b0x[0-9a-f]{6,}\b)"
)
_WORD = re.compile(r"[\w.:+-]+|[^\w.:+-]+")
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One plain value inside an observation, and where it stands (``$.messages[2].text``)."""

    path: str
    value: Atom


def leaves(value: object, path: str = "$") -> Iterator[Leaf]:
    """The plain values inside a snapshot; a text that is JSON is taken apart too.

    Args:
        value: from ``snapshot``.
        path: where it stands.
    """
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, _below(path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}[*]" if isinstance(value, Bag) else f"{path}[{index}]")
    elif isinstance(value, str | bytes) and (parsed := _parse_json(value)) is not None:
        yield from leaves(parsed, path)
        return
    else:
        yield Leaf(path, value)  # type: ignore[arg-type]
        return
    if not value:
        yield Leaf(path, f"<empty {'mapping' if isinstance(value, dict) else 'list'}>")


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]"


def _parse_json(value: str | bytes) -> object:
    """The structure behind a JSON text, None if it is none."""
    if value[:1] not in ("{", "[", b"{", b"["):
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
        if hit.key not in (evidence.key, canary.number_key(evidence.key)):
            return f"<{name} of another test>"
        if hit.owner == number:
            return "<user>" if name == "id" else f"<{name}>"
        if is_shared(evidence, number, hit):
            return f"{SHARED}{name}>"
        return f"<{name} of {evidence.labels.get(hit.owner, hit.owner)}>"

    return label


def plainly(value: Atom, label: Callable[[canary.Hit], str]) -> str:
    """One plain value as a line of the story: names changed, times and addresses left out."""
    if isinstance(value, str | bytes):
        text = rename(value, label)
    else:
        number = canary.searchable(value)
        text = repr(value) if number is None else rename(number, label)
    return _VOLATILE.sub(lambda match: f"<{match.lastgroup}>", text)


def place(run: Run, channel: str, position: int, path: str) -> str:
    """Where something stands, in words: ``response 2 of 5, at $.text``."""
    count = sum(observation.channel == channel for observation in run.observations)
    which = f"{channel} {position + 1} of {count}" if count > 1 and position < count else channel
    return which if path in ("", "$") else f"{which}, at {path}"


def shorten(text: str, most: int = 300) -> str:
    """A text that fits into a report."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


Lines = Mapping[str, tuple[str, ...]]


def lines(value: object, label: Callable[[canary.Hit], str]) -> Lines:
    """A snapshot as lines by path; a path inside a bag has several, in no order."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for leaf in leaves(value):
        path = rename(leaf.path, label) if canary.PREFIX in leaf.path.lower() else leaf.path
        found[path].append(plainly(leaf.value, label))
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
    """

    def __init__(self, solos: Sequence[Evidence]) -> None:
        told = [_tell(evidence, run) for evidence in solos for run in evidence.runs]
        self._first, others = told[0] if told else {}, told[1:]
        self._names = frozenset(name for evidence in solos for name in evidence.names.values())
        self._unstable: set[tuple[str, str]] = set()
        self._lengths = {channel: len(observations) for channel, observations in self._first.items()}
        self._loose: set[str] = set()
        self._words: defaultdict[tuple[str, int, str], set[int]] = defaultdict(set)
        for other in others:
            self._learn(other)

    def expected(self, user: str, channel: str, position: int, path: str) -> str:
        """What a user sees at that place when alone, in words with its name in them; empty if nothing."""
        observations = self._first.get(channel, [])
        values = observations[position].get(path, ()) if position < len(observations) else ()
        return self.address(shorten(", ".join(values)), user)

    def address(self, text: str, user: str) -> str:
        """A line of the story, told of this user."""
        for name in self._names:
            text = text.replace(f"<{name}>", f"<{name} of {user}>")
        return text

    def differences(self, evidence: Evidence, run: Run) -> Iterator[Difference]:
        """Where a run departs from the story, apart from what is unstable or declared as shared."""
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
                for path in a.keys() | b.keys():
                    if a.get(path) != b.get(path):
                        self._mask(channel, position, path, a.get(path), b.get(path))

    def _mask(
        self, channel: str, position: int, path: str, a: tuple[str, ...] | None, b: tuple[str, ...] | None
    ) -> None:
        if a and b and len(a) == len(b) == 1:
            ours, theirs = _WORD.findall(a[0]), _WORD.findall(b[0])
            varying = {i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y}
            # A text of which every word varies has nothing to hold on to.
            if len(ours) == len(theirs) and len(varying) < len(ours):
                self._words[channel, position, path] |= varying
                return
        self._unstable.add((channel, _INDEX.sub("[*]", path)))

    def _compare(self, channel: str, position: int, expected: Lines, observed: Lines) -> Iterator[Difference]:
        for path in sorted(expected.keys() | observed.keys()):
            a, b = expected.get(path), observed.get(path)
            if a == b or (channel, _INDEX.sub("[*]", path)) in self._unstable:
                continue
            if a and b and self._same_words(channel, position, path, a, b):
                continue
            if b and any(SHARED in text for text in b):
                continue
            yield Difference(channel, position, path, _joined(a), _joined(b))

    def _same_words(self, channel: str, position: int, path: str, a: Sequence[str], b: Sequence[str]) -> bool:
        varying = self._words.get((channel, position, path))
        if varying is None or len(a) != 1 or len(b) != 1:
            return False
        ours, theirs = _WORD.findall(a[0]), _WORD.findall(b[0])
        return len(ours) == len(theirs) and all(
            x == y for i, (x, y) in enumerate(zip(ours, theirs, strict=True)) if i not in varying
        )


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
    if isinstance(value, str | bytes) and (parsed := _parse_json(value)) is not None:
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


def _joined(values: Sequence[str] | None) -> str | None:
    return None if values is None else ", ".join(values)


def _whole(observation: Lines) -> str:
    return "; ".join(text for values in observation.values() for text in values)
