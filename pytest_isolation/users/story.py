"""The story that all users tell alike, learnt from several who were alone.

Whatever differs between runs of the scenario by single users is unstable, and masked: by path in structured data, by
word in text. Any other difference is somebody else's doing. It finds wrong answers that carry no canary.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pytest_isolation.model import Evidence, Run
from pytest_isolation.users import canary
from pytest_isolation.users.cast import is_shared
from pytest_isolation.users.transcript import SHARED, Lines, by_channel, labeller, leaves, lines, parse_json

_WORD = re.compile(r"[\w.:+-]+|[^\w.:+-]+")
_TOKEN = 12  # a varying word of this length is one that was made at random
_INDEX = re.compile(r"\[\d+\]")


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
