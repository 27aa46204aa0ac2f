"""What the whole process shares stays as it was: nobody's request changes it for everybody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_isolation.model import Aftermath, Change, Evidence, Finding, Kind
from pytest_isolation.users import canary
from pytest_isolation.users.story import Story
from pytest_isolation.users.transcript import NOBODY, labeller, rename, shorten

_ENVIRONMENT = "os.environ["
_MOST, _CONTEXT = 80, 20


def ambient_changes(evidence: Evidence, story: Story) -> Iterator[Finding]:
    """A finding for whatever a crowd changed and nobody who was alone, and for whatever bears a secret since."""
    alone = {change.name: change for after in evidence.after_alone for change in after.changes}
    telling = {name: change for name, change in alone.items() if _bears_canary(change)}
    telling |= {c.name: c for c in evidence.after.changes if c.name not in alone or _bears_canary(c)}
    for change in telling.values():
        yield Finding(
            kind=Kind.AMBIENT,
            user="everybody",
            phase=evidence.phase,
            summary=_told(change, evidence),
            replay=evidence.replay,
        )


def settled_alone(alone: Iterable[Aftermath]) -> list[str]:
    """A note for what users changed for everybody who were alone, and nobody's secret is in it."""
    changes = {change.name: change for after in alone for change in after.changes}
    return [
        f"{change.name} was changed for the whole process by a user who was alone"
        for change in changes.values()
        if not _bears_canary(change)
    ]


def _told(change: Change, evidence: Evidence) -> str:
    label = labeller(evidence, NOBODY)

    def said(text: str | None) -> str | None:
        if text is None:
            return None
        renamed = rename(text, label)
        # The environment holds real secrets too.
        return "…" if renamed == text and change.name.startswith(_ENVIRONMENT) else renamed

    name, before, after = rename(change.name, label), said(change.before), said(change.after)
    if before == after != "…":
        return f"{name} was changed by the scenario: another {_shown(after)} than before"
    pairs = enumerate(zip(before or "", after or "", strict=False))
    same = next((at for at, (old, new) in pairs if old != new), min(len(before or ""), len(after or "")))
    return f"{name} was changed by the scenario: {_shown(before, same)} → {_shown(after, same)}"


def _shown(text: str | None, same: int = 0) -> str:
    """A text in quotes; a long one from where it differs."""
    if text is None:
        return "nothing"
    start = max(0, same - _CONTEXT) if len(text) > _MOST else 0
    return f"'{'…' if start else ''}{shorten(text[start:], _MOST)}'"


def _bears_canary(change: Change) -> bool:
    return bool(canary.find(change.name) or canary.find(change.after or ""))
