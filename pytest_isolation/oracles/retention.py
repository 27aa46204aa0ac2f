"""Nothing of a user is kept alive when its run has ended: neither what it tracked, nor a secret where none belongs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pytest_isolation.model import Evidence, Finding, Hold, Holding, Kind
from pytest_isolation.users.story import Story


def retained(evidence: Evidence, _story: Story) -> Iterator[Finding]:
    """A finding for every object that a user tracked, that outlived its run, and that others keep alive.

    Who has not ended has been found already, and still needs what it has.
    """
    ended = {run.number for run in evidence.runs if run.ended}
    for one in evidence.after.held:
        if one.by is Hold.REACHED and one.user is not None:
            yield _reached(evidence, one, one.user)
        if one.by is None and one.owner in ended and not one.in_cycle:
            who = evidence.labels[one.owner]
            yield Finding(
                kind=Kind.RETAINED,
                user=who,
                phase=evidence.phase,
                summary=f"a {one.thing} of {who} is still alive, though its run has ended",
                seen=one.since and f"it was tracked at {one.since}",
                replay=evidence.replay,
                kept_by=one.path,
            )


def _reached(evidence: Evidence, one: Holding, user: int) -> Finding:
    who, owner = evidence.labels[user], evidence.labels[one.owner]
    return Finding(
        kind=Kind.RETAINED,
        user=who,
        phase=evidence.phase,
        summary=f"while both were at work, what belongs to {who} led to a {one.thing} of {owner}",
        seen=one.since and f"it was tracked at {one.since}",
        replay=evidence.replay,
        kept_by=one.path,
    )


def left_in_memory(evidence: Evidence, strict: bool) -> Iterator[Finding]:
    """A finding for every way to secrets of users whose runs have ended, if it is no store.

    What keeps many users' data may be a store, as a table of notes. What never is one: the traceback of an exception
    that was kept, a thread-local; and where it is so with several users, a Context that was saved, a function or a
    coroutine whose own variable is the secret.

    Args:
        evidence: what the last crowd left behind.
        strict: whatever keeps secrets is a finding.
    """
    for path, some in _ways(evidence):
        if strict or _is_no_store(some):
            suspected = "" if strict else "suspected: "
            yield Finding(
                kind=Kind.RETAINED,
                user=evidence.labels[some[0].owner] if len(some) == 1 else f"{len(some)} users",
                phase=evidence.phase,
                summary=f"{suspected}{_said(evidence, some)} can still be reached, though the runs have ended",
                replay=evidence.replay,
                kept_by=path,
            )


def stores(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What keeps secrets of the crowd and may be a store: what is kept, and the way to it."""
    crowd = {run.number for run in evidence.runs}
    for path, some in _ways(evidence):
        if not _is_no_store(some) and any(one.owner in crowd for one in some):
            yield _said(evidence, some), path


def _ways(evidence: Evidence) -> Iterator[tuple[str, Sequence[Holding]]]:
    waiting = {run.number for run in evidence.runs if not run.ended}
    ways: dict[str, list[Holding]] = {}
    for one in evidence.after.held:
        if one.by not in (None, Hold.REACHED) and one.owner not in waiting:
            ways.setdefault(one.path, []).append(one)
    yield from ways.items()


def _is_no_store(some: Sequence[Holding]) -> bool:
    if some[0].by in (Hold.EXCEPTION, Hold.THREAD_LOCAL):
        return True
    return some[0].by is not Hold.STORE and len({one.owner for one in some}) > 1


def _said(evidence: Evidence, some: Sequence[Holding]) -> str:
    names = sorted({name for one in some for name in one.secrets})
    secrets = f"the secret{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
    if len(some) == 1:
        return f"{secrets} of {evidence.labels[some[0].owner]}"
    crowd = {run.number for run in evidence.runs}
    owners = {one.owner for one in some}
    others = len(owners - crowd)
    alone = f" and {others} who {'was' if others == 1 else 'were'} alone" if others else ""
    return f"{secrets} of {len(owners & crowd)} of {len(crowd)} users{alone}"


def cycles(held: Iterable[Holding]) -> list[str]:
    """A note for what was tracked and only the garbage collector could take away."""
    counts = Counter((one.thing, one.since) for one in held)
    return [
        f"a {thing} that was tracked{since and f' at {since}'} went only when garbage was collected ({count} times): "
        "it refers to itself, directly or not, and takes memory until then"
        for (thing, since), count in counts.items()
    ]
