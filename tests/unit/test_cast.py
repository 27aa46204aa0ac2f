"""Users have canaries of their own, whatever they are called and however many there are."""

import pytest

from pytest_isolation.errors import MisuseError
from pytest_isolation.model import Share
from pytest_isolation.users import canary
from pytest_isolation.users.cast import Cast, is_foreign, is_shared, owner_of, run_of
from pytest_isolation.users.heap import Needles
from pytest_isolation.users.snapshot import snapshot


@pytest.fixture
def cast():
    return Cast(1, "tests/test_a.py::test", 0)


def hit_in(text):
    [hit] = canary.find(str(text))
    return hit


def test_a_secret_is_the_same_at_every_call_and_unique_to_user_and_name(cast):
    """The scenario may ask for it again."""
    alice, bob = cast.users(2)
    secrets = [user.secret(name) for user in (alice, bob) for name in ("note", "title", "note")]
    assert secrets[0] == secrets[2]
    assert len(set(secrets)) == 4


def test_the_id_is_a_canary_too(cast):
    """So that a foreign id is found like any other secret."""
    [user] = cast.users(1)
    assert user.id == user.secret("id")
    assert hit_in(user.id).owner == 0


@pytest.mark.parametrize("names", [("my note", "mynote"), ("a" * 13, "a" * 14), ("é", "ü")])
def test_names_that_look_alike_in_a_canary_get_different_ones(cast, names):
    """Twelve letters and digits are not much."""
    [user] = cast.users(1)
    first, second = (user.secret(name) for name in names)
    assert first != second
    assert [cast.names[hit_in(text).name] for text in (first, second)] == list(names)


def test_canaries_are_the_same_for_the_same_seed_test_and_take():
    """A replay plays with the same ids."""
    ids = [Cast(*parts).users(1)[0].id for parts in ((1, "t", 0), (1, "t", 0), (2, "t", 0), (1, "u", 0), (1, "t", 1))]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


def test_labels_go_on_counting(cast):
    """A second crowd of the same test is made of other users."""
    labels = [repr(user) for count in (2, 1) for user in cast.users(count)]
    assert labels == ["<user-00>", "<user-01>", "<user-02>"]
    assert [repr(user) for user in cast.users(1, "solo")] == ["<solo-00>"]


def test_observing_hands_the_value_back(cast):
    """So that it can wrap a call: body = user.observe(await get())."""
    [user] = cast.users(1)
    value = {"a": [1]}
    assert user.observe(value) is value
    value["a"].append(2)
    assert run_of(user, None, True, 0.0).observations[0].value == {"a": [1]}


def test_a_number_says_whose_it_is(cast):
    """As a number, and under its name."""
    [user] = cast.users(1)
    assert user.number("amount") == user.number("amount")
    hit = hit_in(user.number("amount"))
    assert (cast.names[hit.name], hit.owner) == ("amount", 0)


def test_too_many_names_for_a_number_are_said(cast):
    """Two digits have room for a hundred."""
    [user] = cast.users(1)
    for name in range(100):
        user.number(str(name))
    with pytest.raises(MisuseError, match=r"user-00\.number\('more'\).*100 names"):
        user.number("more")


def test_too_many_users_are_refused(cast, monkeypatch):
    """Before a canary would be wrong."""
    monkeypatch.setattr(canary, "OWNERS", 3)
    cast.users(2)
    with pytest.raises(MisuseError, match="one test can have 3 users, not 4"):
        cast.users(2)


def test_a_secret_has_a_name(cast):
    """A user object in its place is a slip."""
    [user] = cast.users(1)
    with pytest.raises(MisuseError, match="a secret's name is a str, not 7"):
        user.secret(7)


def test_what_is_foreign_and_what_is_shared(cast):
    """Own: neither. Another's: foreign, and shared once declared, by name, with whom it was declared."""
    alice, bob, carol = cast.users(3)
    note, title = alice.secret("note"), alice.secret("title")
    alice.share("note", bob)
    evidence = cast.evidence("phase", [])
    assert evidence.shares == {Share(0, "note", 1)}
    assert not is_foreign(evidence, 0, hit_in(note))
    assert is_foreign(evidence, 1, hit_in(note))
    assert is_shared(evidence, 1, hit_in(note))
    assert not is_shared(evidence, 1, hit_in(title))
    assert not is_shared(evidence, 2, hit_in(note))
    alice.share("note")
    assert is_shared(cast.evidence("phase", []), carol._number, hit_in(note))


def test_a_number_of_another_cast_accuses_nobody(cast):
    """Three digits of key are met by chance; a text of another cast is another test's."""
    [stranger] = Cast(9, "other", 0).users(1)
    evidence = cast.evidence("phase", [])
    assert is_foreign(evidence, 5, hit_in(stranger.secret()))
    assert not is_foreign(evidence, 5, hit_in(stranger.number()))


def test_a_cut_canary_is_shared_if_its_owner_shares_anything(cast):
    """It carries no name that could tell."""
    alice, bob = cast.users(2)
    evidence_before = cast.evidence("phase", [])
    cut = hit_in(alice.secret("note")[:17])
    assert not is_shared(evidence_before, 1, cut)
    alice.share("note", bob)
    assert is_shared(cast.evidence("phase", []), 1, cut)


def test_nothing_planted_is_known(cast):
    """Only a secret that was handed out can come back."""
    [user] = cast.users(1)
    user.observe("x")
    assert not cast.planted
    user.number()
    assert cast.planted


def test_a_user_can_be_observed_itself(cast):
    """Slips happen; they do not break the copy."""
    [user] = cast.users(1)
    assert isinstance(snapshot(user), dict | str)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (
            lambda alice, bob: alice.share("note", None),
            r"share\('note', …\) takes users, not None; share\('note'\) alone shares",
        ),
        (lambda alice, bob: alice.share("note", "bob"), r"takes users, not 'bob'"),
        (lambda alice, bob: alice.share(bob), r"takes the name of a secret first, then users: share\('note', bob\)"),
        (lambda alice, bob: alice.observe("a", channel=3), r"a channel is named by a text: .* not 3"),
        (lambda alice, bob: alice.secret(["note"]), r"a secret's name is a str, not \['note'\]"),
        (lambda alice, bob: alice.number(3), r"a number's name is a str, not 3"),
    ],
)
def test_wrong_arguments_are_refused_with_the_right_form(use, said):
    """Nothing is shared, planted or seen by mistake."""
    with pytest.raises(MisuseError, match=said):
        use(*Cast(1, "test").users(2))


def test_what_is_observed_after_the_run_was_told_is_late_and_handed_out_once():
    """Nobody else would judge it."""
    cast = Cast(1, "test")
    [alice] = cast.users(1)
    alice.observe("in time")
    run = run_of(alice)
    alice.observe("late", "socket")
    assert [observation.value for observation in run.observations] == ["in time"]
    [late] = cast.late_runs()
    assert (late.user, [observation.value for observation in late.observations]) == ("user-00", ["late"])
    assert cast.late_runs() == []


SHARES = {(8, 0.25): [3, 7], (5, 0.5): [1, 4], (4, 0.01): [3], (3, 1.0): [0, 1, 2], (4, 0.0): [], (1, 0.5): []}


@pytest.mark.parametrize(("count", "share"), SHARES)
def test_anonymous_users_are_spread_over_the_crowd(count, share):
    """One at least, where there is a share."""
    cast = Cast(1, "test")
    cast.anonymous = share
    assert [user.index for user in cast.users(count) if user.anonymous] == SHARES[count, share]


def test_every_other_of_those_who_play_alone_is_anonymous():
    """So that both stories are learnt from two at least."""
    cast = Cast(1, "test")
    cast.anonymous = 0.01
    assert [user.anonymous for user in cast.users(5, "solo")] == [False, True, False, True, False]


@pytest.mark.parametrize("key", ["0000", "000h", "zzzz"])
def test_the_number_of_each_of_very_many_users_says_whose_it_is(cast, key):
    """As after a long run with a latency budget, for which crowds play again and again, each time with new users."""
    cast.key = key
    users = cast.users(3 * canary.NUMBER_OWNERS)
    some = [users[at] for at in (7, 10_007, 20_007)]
    assert len({user.number() for user in some}) == len(some)
    evidence = cast.evidence("phase", [])
    for user in some:
        hit = hit_in(user.number())
        assert owner_of(evidence, hit) == user._number
        assert [is_foreign(evidence, one._number, hit) for one in some] == [one is not user for one in some]
        assert Needles(key, len(cast.numbers)).are_in([user.number()])


def test_a_number_that_only_later_users_could_have_is_another_casts(cast):
    """Three digits of key are met by chance, the more so the more of them count."""
    cast.users(5)
    later = canary.mint_number(cast.key, 10_003, 0)
    assert owner_of(cast.evidence("phase", []), hit_in(later)) is None
    assert not is_foreign(cast.evidence("phase", []), 3, hit_in(later))


def test_a_number_of_a_late_user_can_be_shared(cast):
    """By its own name, with whom it was declared."""
    alice, bob = cast.users(canary.NUMBER_OWNERS + 2)[-2:]
    hit = hit_in(alice.number("amount"))
    alice.share("amount", bob)
    evidence = cast.evidence("phase", [])
    assert is_shared(evidence, bob._number, hit)
    assert not is_shared(evidence, 0, hit)
