"""No user sees a canary of another: whatever arrives, by whatever channel, in whatever encoding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pytest_isolation.model import Evidence, Finding, Kind, Observation, Run
from pytest_isolation.users import canary
from pytest_isolation.users.cast import is_foreign, is_shared
from pytest_isolation.users.snapshot import snapshot
from pytest_isolation.users.transcript import (
    NOBODY,
    Atom,
    Story,
    by_channel,
    keys,
    labeller,
    leaves,
    place,
    plainly,
    rename,
    shorten,
)

# A list of texts, or of things with a text each: [0], [0].text
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
            for leaf in leaves(observation.value):
                text = canary.searchable(leaf.value)
                for hit in canary.find(text) if text is not None else ():
                    yield _Sighting(channel, position, leaf.path, leaf.value, hit)
            for key, path in keys(observation.value).items():
                for hit in canary.find(key):
                    yield _Sighting(channel, position, path, key, hit)
            yield from _in_pieces(channel, position, [observation], _LAST_INDEX)
        if len(observations) > 1:
            yield from _in_pieces(channel, 0, observations)


def _in_pieces(
    channel: str, first: int, observations: Sequence[Observation], ignored: re.Pattern[str] | None = None
) -> Iterator[_Sighting]:
    """A canary that arrived in several pieces, as in a reply that is streamed word by word.

    The pieces may be texts, bytes, a field that stands at the same place in several events, or the parts of a list.

    Args:
        channel: on which they came.
        first: the position of the first of them.
        observations: in order.
        ignored: of a place, so that pieces of one list stand together.
    """
    places: dict[tuple[str, type], list[tuple[int, str | bytes]]] = {}
    for position, observation in enumerate(observations, first):
        for leaf in leaves(observation.value):
            if isinstance(leaf.value, str | bytes):
                where = ignored.sub("", leaf.path) if ignored else leaf.path
                places.setdefault((where, type(leaf.value)), []).append((position, leaf.value))
    for (path, _), chunks in places.items():
        if len(chunks) > 1:
            yield from _across_seams(channel, path, chunks)


def _across_seams(channel: str, path: str, chunks: Sequence[tuple[int, str | bytes]]) -> Iterator[_Sighting]:
    texts = [text if isinstance(text, str) else text.decode("latin-1") for _, text in chunks]
    joined, seams = "".join(texts), list(accumulate(map(len, texts)))
    for hit in canary.find(joined):
        if any(hit.start < seam < hit.stop for seam in seams):
            first = next(i for i, seam in enumerate(seams) if hit.start < seam)
            yield _Sighting(channel, chunks[first][0], path, joined[hit.start : hit.stop], hit)


def _finding(evidence: Evidence, story: Story, run: Run, found: Sequence[_Sighting]) -> Finding:
    first = found[0]
    form = f" ({first.hit.form} of the canary)" if first.hit.form else ""
    more = f", and at {len(found) - 1} more" if len(found) > 1 else ""
    label = labeller(evidence, run.number)
    where = place(run, first.channel, first.position, rename(first.path, label))
    return Finding(
        kind=Kind.LEAK,
        user=run.user,
        phase=evidence.phase,
        summary=f"{run.user} received {_whose(evidence, first.hit)}",
        channel=f"{where}{form}{more}",
        expected=story.expected(run.user, first.channel, first.position, first.path),
        seen=shorten(plainly(first.value, labeller(evidence, NOBODY))),
        replay=evidence.replay,
    )


def _whose(evidence: Evidence, hit: canary.Hit) -> str:
    secret = f"the secret {evidence.names.get(hit.name, hit.name)!r}" if hit.name else "a secret, cut short,"
    if hit.key not in (evidence.key, canary.number_key(evidence.key)):
        return f"{secret} of a user of another test or an earlier run"
    return f"{secret} of {evidence.labels.get(hit.owner, f'user number {hit.owner}')}"
