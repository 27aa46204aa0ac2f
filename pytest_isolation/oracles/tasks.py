"""Nothing goes on when a user's run has ended: no task, timer, thread, process or open socket that grows with users.

What a backend starts once, when its first user comes, and keeps for all is none of that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from pytest_isolation.model import Aftermath, Evidence, Finding, Kind, Leftover
from pytest_isolation.users.story import Story
from pytest_isolation.users.transcript import NOBODY, labeller, rename

_PLURAL = {"process": "processes"}


def left_behind(evidence: Evidence, story: Story) -> Iterator[Finding]:
    """A finding for every user and thing that it left behind; one for all where it cannot be told whose it is.

    Who failed or did not end has been found out already, and what it left behind says nothing more.
    """
    numbers = [run.number for run in evidence.runs]
    ended = {run.number for run in evidence.runs if run.ended and run.error is None}
    accusable = ended if len(ended) < len(numbers) else {*ended, None}
    found = [one for one in grown(evidence.after.left, numbers, evidence.after_alone) if one.number in accusable]
    counts = Counter((one.number, one.what, one.name) for one in found)
    for (number, what, name), count in sorted(counts.items(), key=lambda item: (item[0][0] or 0, *item[0][1:])):
        many = f"{len(numbers)} user{'' if len(numbers) == 1 else 's'}"
        who = many if number is None else evidence.labels[number]
        yield Finding(
            kind=Kind.LEFT,
            user="everybody" if number is None else who,
            phase=evidence.phase,
            summary=f"{who} left {_some(count, what)} behind: {rename(name, labeller(evidence, NOBODY))}",
            seen=_growth((what, name), evidence),
            replay=evidence.replay,
        )


def grown(left: Sequence[Leftover], users: Sequence[int], alone: Iterable[Aftermath]) -> list[Leftover]:
    """What of all that is left is more the more users there were.

    Args:
        left: what a crowd left behind.
        users: the numbers of those who made it.
        alone: what each user left behind who was alone before; what the first one started may live for all.
    """
    later = [_kinds(after.left) for after in alone][1:]
    kinds: defaultdict[tuple[str, str], list[Leftover]] = defaultdict(list)
    for one in left:
        kinds[one.what, one.name].append(one)
    found: list[Leftover] = []
    for kind, some in kinds.items():
        own = [one for one in some if one.number in users]
        each_alone = bool(later) and all(kinds_alone[kind] for kinds_alone in later)
        if own and (each_alone or (len(users) > 1 and {one.number for one in own} == {*users})):
            found += own
        elif each_alone and len(some) >= len(users):
            found += [Leftover(*kind) for _ in some]
    return found


def _kinds(left: Iterable[Leftover]) -> Counter[tuple[str, str]]:
    return Counter((one.what, one.name) for one in left)


def _growth(kind: tuple[str, str], evidence: Evidence) -> str:
    users, alone = len(evidence.runs), len(evidence.after_alone)
    crowd = f"{users} users at once" if users > 1 else "one user"
    before = sum(_kinds(after.left)[kind] for after in evidence.after_alone)
    return f"{_kinds(evidence.after.left)[kind]} more after {crowd}; {before} after {alone} who were alone"


def _some(count: int, what: str) -> str:
    return f"a {what}" if count == 1 else f"{count} {_PLURAL.get(what, f'{what}s')}"
