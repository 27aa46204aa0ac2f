"""What a user saw, as text: taken apart, with names changed, and as short as a report wants it."""

import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.model import Observation
from pytest_isolation.users.cast import Cast, run_of
from pytest_isolation.users.snapshot import Bag, snapshot
from pytest_isolation.users.transcript import Leaf, contrast, labeller, leaves, place, plainly, rename, shorten


@pytest.fixture
def cast():
    return Cast(1, "test", 0)


def evidence_of(cast, *users):
    return cast.evidence("phase", [run_of(user, None, True, 0.1) for user in users])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", [("$", "a")]),
        ({"a": {"b": [1, 2]}}, [("$.a.b[0]", 1), ("$.a.b[1]", 2)]),
        ({"odd key": 1}, [("$['odd key']", 1)]),
        (Bag([1, 2]), [("$[*]", 1), ("$[*]", 2)]),
        ({}, [("$", "<empty mapping>")]),
        ([[]], [("$[0]", "<empty list>")]),
        ('{"a": [true]}', [("$.a[0]", True)]),
        (b'[{"a": 1}]', [("$[0].a", 1)]),
        ('{"a": 1, "a": 2}', [("$.a", 1), ('$["a\'"]', 2)]),
        ("{broken", [("$", "{broken")]),
        ("[" * 5000, [("$", "[" * 5000)]),
    ],
    ids=repr,
)
def test_leaves_are_named_by_their_path(value, expected):
    """JSON in a text is taken apart too; a key that stands twice is kept twice."""
    assert list(leaves(value)) == [Leaf(path, leaf) for path, leaf in expected]


def tell(user, evidence, value):
    return plainly(value, labeller(evidence, user._number))


def test_own_secrets_are_called_by_their_name_and_others_by_their_owner(cast):
    """So that all users tell the same, and a report says whose it is."""
    alice, bob = cast.users(2)
    text = f"{alice.id}: {alice.secret('note')} / {bob.secret('note')}"
    amounts = [alice.number("amount"), bob.number("amount")]
    evidence = evidence_of(cast, alice, bob)
    assert tell(alice, evidence, text) == "<user>: <note> / <note of user-01>"
    assert [tell(alice, evidence, amount) for amount in amounts] == ["<amount>", "<amount of user-01>"]


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10),
)
def test_the_same_text_of_two_users_reads_the_same(before, after):
    """In plain text, in JSON, in base64 and packed."""
    cast = Cast(1, "test", 0)
    alice, bob = cast.users(2)
    for form in (
        lambda text: text,
        json.dumps,
        lambda text: text.encode("utf-8"),
        lambda text: base64.b64encode(b"ab" + text.encode()).decode(),
        lambda text: gzip.compress(text.encode()),
    ):
        stories = []
        for user in (alice, bob):
            text = form(before + user.secret("note") + after)
            stories.append(tell(user, evidence_of(cast, alice, bob), text))
        assert stories[0] == stories[1]


@pytest.mark.parametrize(
    "volatile",
    [
        "2026-11-23",
        "2026-11-23T10:52:01.123Z",
        "2026-11-23 10:52:01+01:00",
        "Mon, 23 Nov 2026 10:52:00 GMT",
        "1795000000",
        "1795000000123",
        "1795000000.25",
        "0x7f00aa11bb22",
    ],
)
def test_times_and_addresses_are_left_out(volatile):
    """Two solo runs within a second may agree on them by accident."""
    assert plainly(f"at {volatile}!", str) in ("at <time>!", "at <address>!")


@pytest.mark.parametrize("stable", ["12345", "a-2026-b", "3.14", "0xff", "17950000001234567890123"])
def test_other_numbers_are_not(stable):
    """They are part of the story."""
    assert plainly(stable, str) == stable


def test_sharing_with_somebody_does_not_share_with_everybody(cast):
    """bob may read it, carol may not."""
    alice, bob, carol = cast.users(3)
    alice.share("note", bob)
    evidence = evidence_of(cast, alice, bob, carol)
    assert tell(bob, evidence, alice.secret("note")) == "<shared note>"
    assert tell(carol, evidence, alice.secret("note")) == "<note of user-00>"


def test_a_secret_of_another_test_is_called_so(cast):
    """It was left behind by an earlier test on the same backend."""
    [stranger] = Cast(2, "other", 0).users(1)
    [user] = cast.users(1)
    assert tell(user, evidence_of(cast, user), stranger.secret("note")) == "<note of another test>"


def test_a_place_names_the_observation_only_where_there_are_several(cast):
    """`response 2 of 3, at $.a`."""
    [user] = cast.users(1)
    for _ in range(3):
        user.observe("x")
    user.observe("y", "event")
    run = run_of(user, None, True, 0.0)
    assert place(run, "response", 1, "$.a") == "response 2 of 3, at $.a"
    assert place(run, "event", 0, "$") == "event"


def test_a_long_text_is_cut_and_says_how_long_it_was():
    """Reports stay readable, and do not print all of somebody's data."""
    assert shorten("a" * 1000) == "a" * 300 + "… (1,000 characters)"


def test_two_long_texts_are_shown_where_they_differ():
    """From shortly before; else both might read the same."""
    expected, seen = contrast("same " * 200 + "one" + " end" * 200, "same " * 200 + "two" + " end" * 200)
    assert expected == "…" + "same " * 8 + "one" + (" end" * 200)[:257] + "… (1,803 characters)"
    assert seen == expected.replace("one", "two")
    assert contrast("short one", "short two") == ("short one", "short two")
    assert contrast("a" * 400, "a" * 390) == (
        "…" + "a" * 50 + " (400 characters)",
        "…" + "a" * 40 + " (390 characters)",
    )


def test_renaming_leaves_a_text_without_canaries_alone():
    """Nothing is lost."""
    assert rename("plain", lambda hit: "?") == "plain"
    assert snapshot(Observation("a", 1, at=2.5)) == {"channel": "a", "value": 1, "response": None, "at": 2.5}


def test_a_cut_secret_is_shared_only_if_a_shared_name_fits(cast):
    """What is left of the name tells which one it was."""
    alice, bob = cast.users(2)
    alice.share("public", bob)
    public, private = alice.secret("public"), alice.secret("private")
    evidence = evidence_of(cast, alice, bob)
    assert "shared" in tell(bob, evidence, public[:20])
    assert "shared" not in tell(bob, evidence, private[:20])
