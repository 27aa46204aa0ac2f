"""Tells at little cost that two users saw the same: then what was found out of one holds for the other.

A crowd is mostly hundreds of the same story. Taking one apart, value by value, costs a hundred times what it takes to
write it down in one text, change the names in that, and compare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b

from pytest_isolation.model import Evidence, Run
from pytest_isolation.users import canary
from pytest_isolation.users.transcript import labeller, plainly

_OFTEN_SEEN = 100_000


def likeness(evidence: Evidence, run: Run) -> bytes | None:
    """A digest that two runs share only if all that they saw reads the same once names are changed.

    What is packed (compressed, cut in pieces) keeps the names in it, so that it is like nothing else.

    Returns:
        None for a run that has to be looked at by itself: it failed, or others shared something with its user.
    """
    if run.error is not None or not run.ended or evidence.shares:
        return None
    try:
        text = repr([(seen.channel, seen.value) for seen in run.observations])
    except (ValueError, RecursionError):  # an int of thousands of digits; a structure that is too deep
        return None
    text = text.replace("\\\\", "\\")  # or what is escaped would not be found
    label = labeller(evidence, run.number)
    headers = [
        label(hit)
        for seen in run.observations
        if seen.response is not None
        for _, value in seen.response.headers
        for hit in canary.find(value)
    ]
    for secret, name in _own(evidence, run.number, label):
        text = text.replace(secret, name)  # most are plain, and so they need not be looked for one by one
    told = f"{run.anonymous}{headers}{text}"
    bare = _bare(told) if len(told) < _OFTEN_SEEN else None
    return bare or _digest(plainly(told, label))


def _own(evidence: Evidence, number: int, label: Callable[[canary.Hit], str]) -> Iterator[tuple[str, str]]:
    """The secrets of a user, each with what the story calls it; not its numbers, which may be part of longer ones."""
    for name in evidence.names:
        if not name.startswith("#"):
            yield canary.mint(evidence.key, number, name), label(canary.Hit(evidence.key, number, name, "", 0, 0))


@lru_cache(maxsize=16)
def _bare(told: str) -> bytes | None:
    """The digest of a text without canaries, None of one with: it depends on who reads it."""
    return None if canary.find(told) else _digest(plainly(told, lambda _: ""))


def _digest(told: str) -> bytes:
    return blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()
