"""Two runs are alike only if what is found out of one holds for the other."""

import base64
from dataclasses import replace

import pytest

from pytest_isolation.model import Observation, Share
from pytest_isolation.users.cast import Cast, run_of
from pytest_isolation.users.likeness import likeness


@pytest.fixture
def cast():
    return Cast(1, "test", 0)


def alike(cast, first, second):
    """Whether two users are who see what these functions give of them."""
    users = cast.users(2)
    for user, see in zip(users, (first, second), strict=True):
        user.observe(see(user))
    runs = [run_of(user) for user in users]
    evidence = cast.evidence("crowd", runs, "")
    looks = [likeness(evidence, run) for run in runs]
    assert None not in looks
    return looks[0] == looks[1]


def test_runs_that_differ_in_names_and_times_only_are_alike(cast):
    """As most of a crowd."""

    def see(user):
        return {"id": user.id, "at": f"2026-11-24T10:00:0{user.index}Z", "rows": [1, 2.5, None, True, user.number("n")]}

    assert alike(cast, see, see)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda user: 1, lambda user: 2),
        (lambda user: 1, lambda user: True),
        (lambda user: 1, lambda user: "1"),
        (lambda user: ["a", "b"], lambda user: ["a, b"]),
        (lambda user: {"a": 1}, lambda user: {"b": 1}),
        (lambda user: user.secret("note"), lambda user: user.secret("other")),
    ],
)
def test_any_other_difference_is_one(cast, first, second):
    """Of values, of types, of places, of whose secret it is."""
    assert not alike(cast, first, second)


def test_a_secret_of_somebody_else_is_like_nothing_of_ones_own(cast):
    """Whose it is stands in the text."""
    alice, bob = cast.users(2)
    alice.observe(alice.id)
    bob.observe(alice.id)
    runs = [run_of(alice), run_of(bob)]
    evidence = cast.evidence("crowd", runs, "")
    assert likeness(evidence, runs[0]) != likeness(evidence, runs[1])


ESCAPED = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "JSON escapes": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "reversed": lambda text: text[::-1],
}


@pytest.mark.parametrize("form", ESCAPED)
def test_a_secret_that_is_escaped_is_like_nothing_of_its_owners(cast, form):
    """Though both saw the same to the letter: for one of them it is a leak."""
    alice, bob = cast.users(2)
    for user in (alice, bob):
        user.observe({"text": ESCAPED[form](alice.id)})
    runs = [run_of(alice), run_of(bob)]
    evidence = cast.evidence("crowd", runs, "")
    assert likeness(evidence, runs[0]) != likeness(evidence, runs[1])


def test_who_is_anonymous_is_like_nobody_who_is_not(cast):
    """Their story is another one."""
    [user] = cast.users(1)
    user.observe("hello")
    run = run_of(user)
    evidence = cast.evidence("crowd", [run], "")
    assert likeness(evidence, run) != likeness(evidence, replace(run, anonymous=True))


def test_who_failed_or_shared_is_looked_at(cast):
    """By itself."""
    [user] = cast.users(1)
    user.observe("hello")
    run = run_of(user)
    evidence = cast.evidence("crowd", [run], "")
    assert likeness(evidence, replace(run, error=ValueError())) is None
    assert likeness(evidence, replace(run, ended=False)) is None
    assert likeness(replace(evidence, shares=frozenset({Share(run.number, "note")})), run) is None
    assert likeness(evidence, replace(run, observations=(Observation("a", 10**5000),))) is None
