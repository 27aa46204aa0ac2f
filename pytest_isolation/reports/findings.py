"""Findings as text: who saw whose what, and what keeps it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_isolation.model import Confidence, Finding, Kind, Result

_ENTRY, _MOST_WAYS = re.compile(r"\[.*?\]"), 5
_SHOWN = {Kind.LEAK: 3, Kind.DIFFERENT: 3, Kind.AMBIENT: 3}
_CERTAINTY = {
    Confidence.PROVEN: "proven",
    Confidence.DIFFERENT: "different from what users see alone",
    Confidence.SUSPECTED: "suspected: different once, and not when it was played again",
}


def findings_text(result: Result) -> Iterator[str]:
    """The findings of a result, kind by kind: the first of each in full, and how many more there are."""
    for kind in Kind:
        found = [finding for finding in result.findings if finding.kind is kind]
        shown = _shown(found, _SHOWN.get(kind, 1))
        yield from (finding_text(found[place], result.command) for place in shown)
        named = {_way(found[place]) for place in shown}
        rest: dict[str, list[Finding]] = {}
        for place, finding in enumerate(found):
            if place not in shown:
                way = _way(finding)
                rest.setdefault("" if way in named else way, []).append(finding)
        for way, more in rest.items():
            users = sorted({finding.user for finding in more})
            kept = f"\n  kept by   {more[0].kept_by}" if way else ""
            yield f"… and {len(more)} more of this kind: {_some(users)}{kept}"


def _shown(found: Sequence[Finding], most: int) -> list[int]:
    """The places of those that are told in full: the first ones, and one for each of the next things that keep some."""
    shown = list(range(min(most, len(found))))
    ways = {_way(found[place]) for place in shown}
    for place, finding in enumerate(found):
        if (way := _way(finding)) not in ways and len(ways) < _MOST_WAYS:
            ways.add(way)
            shown.append(place)
    return shown


def _way(finding: Finding) -> str:
    """What keeps it, whichever entry it is there."""
    return _ENTRY.sub("[]", finding.kept_by)


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def finding_text(finding: Finding, command: str) -> str:
    """One finding: who saw whose what; where; in which phase; what it should have been; how to see it again."""
    rows = (
        ("channel", finding.channel),
        ("phase", finding.phase),
        ("expected", finding.expected and f'what {finding.user} sees alone: "{finding.expected}"'),
        ("seen", finding.seen and f'"{finding.seen}"'),
        ("kept by", finding.kept_by),
        ("steps", finding.steps),
        ("certainty", _CERTAINTY[finding.confidence]),
        ("replay", finding.replay and f"{command} --isolation-replay={finding.replay}"),
    )
    lines = [f"  {name:<9} {text}".replace("\n", f"\n{'':12}") for name, text in rows if text]
    doubt = " (suspected)" if finding.confidence is Confidence.SUSPECTED else ""
    return "\n".join([f"{finding.kind.upper()}{doubt}  {finding.summary}", *lines])
