"""No user sees a canary of another: whatever arrives, by whatever channel, in whatever encoding."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from pytest_isolation.model import Evidence, Finding, Kind, Observation, Run
from pytest_isolation.users import canary
from pytest_isolation.users.cast import is_foreign, is_shared, owner_of
from pytest_isolation.users.snapshot import snapshot
from pytest_isolation.users.story import Story
from pytest_isolation.users.transcript import (
    NOBODY,
    Atom,
    Leaf,
    by_channel,
    contrast,
    keys,
    labeller,
    leaves,
    place,
    plainly,
    rename,
    shorten,
)

# A list of texts, or of things with a text each: [0], [0].text
_OFTEN_SEEN = 256
_BEFORE = 40  # so much is shown before a secret
_LAST_INDEX = re.compile(r"\[\d+\](?=[^\[\]]*$)")


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A canary, and where it was seen."""

    channel: str
    position: int
    path: str
    value: Atom
    hit: canary.Hit


def foreign_canaries(evidence: Evidence, story: Story) -> Iterator[Finding]:
    """A finding for every secret of somebody else that a user saw: each pair of user and secret once."""
    for run in evidence.runs:
        secrets: dict[tuple[str, int, str], list[_Sighting]] = {}
        for seen in _sightings(run):
            if is_foreign(evidence, run.number, seen.hit) and not is_shared(evidence, run.number, seen.hit):
                secrets.setdefault((seen.hit.key, seen.hit.owner, seen.hit.name), []).append(seen)
        for (key, owner, name), found in secrets.items():
            whole_too = not name and any((key, owner) == other[:2] and other[2] for other in secrets)
            if not whole_too:
                yield _finding(evidence, story, run, found)


def _sightings(run: Run) -> Iterator[_Sighting]:
    """Every canary in what a run saw, and in the exception that ended it."""
    error = () if run.error is None else (Observation("exception", snapshot(run.error)),)
    for channel, observations in by_channel((*run.observations, *error)).items():
        for position, observation in enumerate(observations):
            found = leaves(observation.value)
            places = {leaf.path for leaf in found} if observation.response is not None else set()
            worth = canary.suspects([leaf.value for leaf in found])
            for leaf in (leaf for index, leaf in enumerate(found) if index in worth):
                text = canary.searchable(leaf.value)
                for hit in canary.find(text) if text is not None else ():
                    yield _Sighting(channel, position, leaf.path, leaf.value, hit)
            for key, path in keys(observation.value).items():
                for hit in _hits(key):
                    yield _Sighting(channel, position, path, key, hit)
            for name, value in observation.response.headers if observation.response is not None else ():
                if f"$.headers.{name}" not in places and f"$.headers[{name!r}]" not in places:  # left out of the story
                    for hit in _hits(value):
                        yield _Sighting(channel, position, f"$.headers[{name!r}]", value, hit)
            yield from _in_pieces(channel, position, [found], _of_list)
        if len(observations) > 1:
            yield from _in_pieces(channel, 0, [leaves(observation.value) for observation in observations])


def _hits(text: str | bytes) -> Sequence[canary.Hit]:
    if isinstance(text, str) and len(text) <= _OFTEN_SEEN and not _bears(text):
        return ()
    return canary.find(text)


@lru_cache(maxsize=20_000)
def _bears(text: str) -> bool:
    return len(text) >= canary.SHORTEST and bool(canary.find(text))


def _in_pieces(
    channel: str, first: int, observations: Sequence[Sequence[Leaf]], where: Callable[[str], str] = str
) -> Iterator[_Sighting]:
    """A canary that arrived in several pieces, as in a reply that is streamed word by word.

    The pieces may be texts, bytes, a field that stands at the same place in several events, or the parts of a list.

    Args:
        channel: on which they came.
        first: the position of the first of them.
        observations: their leaves, in order.
        where: makes of a path the place where pieces stand together.
    """
    places: dict[tuple[str, type], list[tuple[int, str | bytes]]] = {}
    for position, found in enumerate(observations, first):
        for leaf in found:
            if isinstance(leaf.value, str | bytes):
                places.setdefault((where(leaf.path), type(leaf.value)), []).append((position, leaf.value))
    for (path, _), chunks in places.items():
        if len(chunks) > 1:
            yield from _across_seams(channel, path, chunks)


@lru_cache(maxsize=20_000)
def _of_list(path: str) -> str:
    """The same for all elements of a list."""
    return _LAST_INDEX.sub("", path)


def _across_seams(channel: str, path: str, chunks: Sequence[tuple[int, str | bytes]]) -> Iterator[_Sighting]:
    texts = [text if isinstance(text, str) else text.decode("latin-1") for _, text in chunks]
    joined, seams = "".join(texts), list(accumulate(map(len, texts)))
    for hit in canary.find(joined):
        first = bisect_right(seams, hit.start)
        if first < len(seams) and seams[first] < hit.stop:  # what had to be unpacked may be longer
            yield _Sighting(channel, chunks[first][0], path, joined[hit.start : hit.stop], hit)


def _finding(evidence: Evidence, story: Story, run: Run, found: Sequence[_Sighting]) -> Finding:
    first = found[0]
    form = f" ({first.hit.form} of the canary)" if first.hit.form else ""
    more = f", and at {len(found) - 1} more" if len(found) > 1 else ""
    label = labeller(evidence, run.number)
    where = place(run, first.channel, first.position, rename(first.path, label))
    expected = story.of(run).expected(run.user, first.channel, first.position, first.path)
    told = labeller(evidence, NOBODY)
    expected, seen = _shown(expected, plainly(first.value, told), told(first.hit))
    return Finding(
        kind=Kind.LEAK,
        user=run.user,
        phase=evidence.phase,
        summary=f"{run.user} received {_whose(evidence, first.hit)}",
        channel=f"{where}{form}{more}",
        expected=expected,
        seen=seen,
        replay=evidence.replay,
    )


def _shown(expected: str, seen: str, secret: str) -> tuple[str, str]:
    """What fits into a report of what a user sees alone and saw instead: the secret is in it."""
    if expected:
        expected, shown = contrast(expected, seen)
        if secret in shown or secret not in seen:
            return expected, shown
    return shorten(expected), shorten(seen, start=max(0, seen.find(secret) - _BEFORE))


def _whose(evidence: Evidence, hit: canary.Hit) -> str:
    secret = f"the secret {evidence.names.get(hit.name, hit.name)!r}" if hit.name else "a secret, cut short,"
    owner = owner_of(evidence, hit)
    if owner is None:
        return f"{secret} of a user of another test or an earlier run"
    return f"{secret} of {evidence.labels.get(owner, f'user number {owner}')}"
