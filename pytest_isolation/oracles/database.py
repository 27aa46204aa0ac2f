"""A database connection forgets who used it before it is lent again, and a session belongs to one user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pytest_isolation.model import Evidence, Finding, Kind, Lapse, Mishap
from pytest_isolation.oracles.pools import place_of
from pytest_isolation.users.story import Story
from pytest_isolation.users.transcript import NOBODY, labeller, rename

_SAID: Mapping[Lapse, Callable[[Mishap, str, str, str], str]] = {
    Lapse.STATE: lambda one, user, other, detail: (
        f"{one.thing} went back to the pool with {detail}, set by {other}; {user} was given it so"
    ),
    Lapse.LEFT_STATE: lambda one, _user, other, detail: (
        f"{one.thing} went back to the pool with {detail}, set by {other}"
    ),
    Lapse.SHARED_SESSION: lambda one, user, other, _: (
        f"{user} used {one.thing} of {other}, and meets what is in its identity map"
    ),
    Lapse.SEQUENCE: lambda one, user, other, _: (
        f"{user} asked {one.thing} for the last number of a sequence, which {other} had drawn"
    ),
}


def left_in_sessions(evidence: Evidence, _story: Story) -> Iterator[Finding]:
    """A finding for every state that the next user of a connection met, and for every session of two users."""
    label = labeller(evidence, NOBODY)
    numbers = {run.number for run in evidence.runs}
    for one in evidence.after.mishaps:
        if one.lapse not in _SAID or (one.user is not None and one.user not in numbers):
            continue
        user, other = ("somebody" if n is None else evidence.labels[n] for n in (one.user, one.other))
        detail = rename(one.detail, label)
        yield Finding(
            kind=Kind.SESSION,
            user=other if one.lapse is Lapse.LEFT_STATE else user,
            phase=evidence.phase,
            summary=_SAID[one.lapse](one, user, other, detail),
            channel=one.pool,
            seen=place_of(one, other),
            replay=evidence.replay,
        )
