"""No user sees a canary of another."""

import base64
import json
from decimal import Decimal

import pytest

from pytest_isolation.oracles.canaries import foreign_canaries
from pytest_isolation.users.cast import Cast, run_of
from pytest_isolation.users.story import Story

SILENT = Story(())


def findings(stage, *runs):
    return list(foreign_canaries(stage.evidence(*runs), SILENT))


def test_own_secrets_are_no_finding(stage):
    """In any form, at any place."""
    for user in stage.users:
        user.observe({user.id: [user.secret("note"), user.number("amount")]})
        user.observe(base64.b64encode(user.secret("note").encode()))
    assert findings(stage) == []


@pytest.mark.parametrize(
    ("see", "channel"),
    [
        (lambda secret: secret, "response"),
        (lambda secret: {"a": [1, {"b": f"x{secret}y"}]}, "response, at $.a[1].b"),
        (lambda secret: {secret: 1}, "response, at $.<note of user-01>"),
        (lambda secret: f'{{"text": "{secret}"}}', "response, at $.text"),
        (lambda secret: [secret, secret], "response, at $[0], and at 1 more"),
        (lambda secret: {"t": base64.b64encode(secret.encode())}, "response, at $.t (base64 of the canary)"),
        (lambda secret: {secret[:16]}, "response, at $[*]"),
    ],
)
def test_a_foreign_secret_is_a_finding_with_its_place(stage, see, channel):
    """By path, with the form in which it was written."""
    alice, bob, _ = stage.users
    alice.observe(see(bob.secret("note")))
    [finding] = findings(stage)
    assert finding.user == "user-00"
    assert finding.channel == channel
    assert finding.replay == "crowd:3:1"
    assert ("the secret 'note' of user-01" in finding.summary) or ("a secret, cut short, of user-01" in finding.summary)


def test_the_observation_is_named_where_there_are_several(stage):
    """`event 2 of 3`."""
    alice, bob, _ = stage.users
    for value in ("a", bob.secret("note"), "c"):
        alice.observe(value, "event")
    [finding] = findings(stage)
    assert finding.channel == "event 2 of 3"


def test_each_pair_of_user_and_secret_is_reported_once(stage):
    """However often it was seen; two secrets are two findings."""
    alice, bob, carol = stage.users
    alice.observe([bob.secret("note")] * 5 + [bob.secret("title")])
    carol.observe(bob.secret("note"))
    assert [(f.user, f.summary.split("'")[1]) for f in findings(stage)] == [
        ("user-00", "note"),
        ("user-00", "title"),
        ("user-02", "note"),
    ]


def test_a_foreign_number_is_a_finding(stage):
    """As a number and in a text."""
    alice, bob, _ = stage.users
    alice.observe({"amount": bob.number("amount")})
    [finding] = findings(stage)
    assert finding.summary == "user-00 received the secret 'amount' of user-01"


def test_an_exception_that_carries_a_foreign_secret_is_a_finding(stage):
    """In its text, its arguments, its notes, its causes."""
    alice, bob, _ = stage.users
    error = ValueError("failed")
    error.add_note(f"while serving {bob.id}")
    [finding] = findings(stage, stage.run(alice, error))
    assert finding.channel == "exception, at $.__notes__[0]"


def test_a_secret_that_arrives_in_pieces_is_found(stage):
    """A reply is streamed word by word; no piece holds the whole."""
    alice, bob, _ = stage.users
    secret = bob.secret("note")
    for at in range(0, len(secret), 5):
        alice.observe(secret[at : at + 5], "stream")
    [finding] = findings(stage)
    assert finding.channel == "stream 1 of 5"
    assert finding.seen == "<note of user-01>"


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (str.encode, ""),
        (lambda piece: {"type": "chunk", "delta": {"text": piece}}, ", at $.delta.text"),
        (lambda piece: json.dumps({"delta": piece}), ", at $.delta"),
    ],
    ids=["bytes", "events", "JSON"],
)
def test_pieces_may_be_bytes_or_a_field_of_events(stage, wrap, path):
    """As over a raw socket, and as a chat's tokens come."""
    alice, bob, _ = stage.users
    secret = bob.secret("note")
    for at in range(0, len(secret), 5):
        alice.observe(wrap(secret[at : at + 5]), "stream")
    [finding] = findings(stage)
    assert finding.channel == f"stream 1 of 5{path}"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", [int, float, str, Decimal])
def test_a_number_is_found_in_every_type(stage, kind, sign):
    """JavaScript knows only doubles, and a booking may be negative."""
    alice, bob, _ = stage.users
    alice.observe({"balance": kind(sign * bob.number("balance"))})
    [finding] = findings(stage)
    assert finding.summary == "user-00 received the secret 'balance' of user-01"


def test_a_secret_of_an_earlier_test_is_a_finding(stage):
    """Whose it was cannot be said, but not this user's."""
    [stranger] = Cast(9, "other test", 0).users(1)
    stage.users[0].observe(stranger.secret("note"))
    [finding] = findings(stage)
    assert finding.summary == "user-00 received the secret 'note' of a user of another test or an earlier run"


def test_shared_secrets_are_no_finding_for_those_who_may_see_them(stage):
    """And one for those who may not."""
    alice, bob, carol = stage.users
    alice.share("note", bob)
    for user in (bob, carol):
        user.observe(alice.secret("note"))
    assert [finding.user for finding in findings(stage)] == ["user-02"]


def test_the_story_says_what_should_have_been_there(stage):
    """What this user sees when alone."""
    alice, bob, _ = stage.users
    story = stage.story(lambda user: user.observe({"text": user.secret("note")}))
    alice.observe({"text": bob.secret("note")})
    [finding] = foreign_canaries(stage.evidence(), story)
    assert (finding.expected, finding.seen) == ("<note of user-00>", "<note of user-01>")


@pytest.mark.parametrize(
    "hide",
    [
        lambda alice: {"orders": {alice.number("order"): "paid"}},
        lambda alice: {"orders": {str(alice.number("order")): "paid"}},
        lambda alice: {alice.secret().encode().hex(): 1},
        lambda alice: {base64.b64encode(alice.secret().encode()): 1},
        lambda alice: json.dumps({alice.secret()[::-1]: 1}),
        lambda alice: {("a", alice.secret()): 1},
    ],
)
def test_a_key_is_searched_as_a_value_is(hide):
    """In whatever encoding."""
    cast = Cast(1, "test")
    alice, bob = cast.users(2)
    bob.observe(hide(alice))
    assert [f.user for f in foreign_canaries(cast.evidence("test", [run_of(bob)]), Story(()))] == ["user-01"]


@pytest.mark.parametrize(
    "arrange",
    [
        lambda pieces: pieces,
        lambda pieces: [{"delta": piece} for piece in pieces],
        lambda pieces: {"choices": [{"text": piece} for piece in pieces]},
        lambda pieces: [piece.encode() for piece in pieces],
    ],
)
def test_a_secret_in_pieces_of_one_list_is_found(arrange):
    """As ``observe(list(…))`` makes it of a stream."""
    cast = Cast(1, "test")
    alice, bob = cast.users(2)
    text = f"Your note: {alice.secret('note')}."
    pieces = arrange([text[at : at + 5] for at in range(0, len(text), 5)])
    bob.observe(pieces)
    alice.observe(pieces)
    findings = list(foreign_canaries(cast.evidence("test", [run_of(alice), run_of(bob)]), Story(())))
    assert [finding.user for finding in findings] == ["user-01"]
