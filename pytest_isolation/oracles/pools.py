"""What a pool lends belongs to one user at a time, comes back once and clean, and is no more than it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pytest_isolation.model import Evidence, Finding, Kind, Lapse, Mishap
from pytest_isolation.users.story import Story
from pytest_isolation.users.transcript import NOBODY, labeller, rename

Tell = Callable[[Mishap, str, str], str]

_SAID: Mapping[Lapse, Tell] = {
    Lapse.TWO_OWNERS: lambda one, user, other: f"{user} was given {one.thing} while {other} still had it",
    Lapse.USED_LATE: lambda one, user, other: (
        f"{user} used {one.thing} after having returned it"
        + (f", and {other} had it by then" if one.other is not None else "")
    ),
    Lapse.DIRTY: lambda one, user, other: f"{user} was given {one.thing} as {other} had left it",
    Lapse.SOILED: lambda one, user, _: f"{user} returned {one.thing} so that the next one meets what is in it",
    Lapse.KEPT: lambda one, user, _: f"{user} never returned {one.thing}",
    Lapse.DROPPED: lambda one, user, _: f"{user} dropped {one.thing} instead of returning it",
    Lapse.TWICE: lambda one, user, _: f"{user} returned {one.thing} which was not lent: it had been returned before",
    Lapse.BEYOND: lambda one, user, _: f"{user} was given {one.thing}, one too many",
}


def mislent(evidence: Evidence, _story: Story) -> Iterator[Finding]:
    """A finding for everything that went wrong with the objects of a pool."""
    label = labeller(evidence, NOBODY)
    for one in concerning(evidence):
        if one.lapse in _SAID:
            user, other = (named(evidence, number) for number in (one.user, one.other))
            who = other if one.lapse in (Lapse.TWO_OWNERS, Lapse.DIRTY) else user
            yield Finding(
                kind=Kind.POOL,
                user=user,
                phase=evidence.phase,
                summary=_SAID[one.lapse](one, user, other),
                channel=one.pool,
                seen="; ".join(filter(None, [rename(one.detail, label), place_of(one, who)])),
                replay=evidence.replay,
            )


def place_of(one: Mishap, who: str) -> str:
    """``solo-00 acquired it at app.py:31 in get, in the phase solo``, as far as that is known."""
    if not one.place:
        return f"{who} had it in the phase {one.since}" if one.since else ""
    return f"{who} acquired it at {one.place}" + (f", in the phase {one.since}" if one.since else "")


def concerning(evidence: Evidence) -> Iterator[Mishap]:
    """What users met who are judged here; who has not ended has been found already, and may still return a thing."""
    ended = {run.number for run in evidence.runs if run.ended}
    yield from (one for one in evidence.after.mishaps if one.user is None or one.user in ended)


def named(evidence: Evidence, number: int | None) -> str:
    """A user as reports call it."""
    return "somebody" if number is None else evidence.labels[number]
