"""A token reads back as what it was written for, and anything else is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.errors import TokenError
from pytest_isolation.phases.token import Token, parse, versions


@given(st.integers(0, 10**12), st.none() | st.integers(1, 10**6))
def test_a_token_survives_the_command_line(seed, users):
    """What the report prints is what the option reads."""
    assert parse(str(Token(seed, users))) == Token(seed, users)


@given(
    st.integers(0, 10**12),
    st.integers(1, 500),
    st.sampled_from(["", "ConnectionResetError"]),
    st.integers(0, 2**32 - 1),
    st.none() | st.integers(1, 500),
    st.none() | st.integers(1, 9),
)
def test_a_token_of_a_cut_does_too(seed, point, fault, check, after, part):
    """With the point, what was raised there, the check of the code around it, the cut before it, and which check it was."""
    token = Token(seed, None, point, fault, f"{check:08x}", after=after, part=part)
    assert parse(str(token)) == token
    assert parse(str(token)).made == versions()


def test_a_token_knows_what_has_changed_since_it_was_made():
    assert Token(1).age == Token(1, made="").age == ""
    plugin, python, _ = versions().split("-")
    assert Token(1, made=f"{plugin}-{python}-00000000").age == "it was made with other packages"
    assert Token(1, made=f"{plugin}-2.7-00000000").age == f"it was made with Python 2.7, which is {python} now"


@given(
    st.integers(0, 10**12),
    st.integers(1, 100),
    st.sampled_from(["fifo", "sticky"]),
    st.dictionaries(st.integers(0, 5000), st.integers(1, 50)),
    st.integers(0, 2**32 - 1),
    st.none() | st.tuples(st.integers(0, 99), st.integers(0, 999)),
)
def test_a_token_of_a_schedule_does_too(seed, users, order, decisions, check, other):
    """With the order that it deviates from, the decisions and a check of them, and whose secrets were others."""
    varied, variant = (other[0] % users, other[1]) if other else (None, 0)
    deviations = tuple(sorted(decisions.items()))
    token = Token(seed, users, check=f"{check:08x}", order=order, deviations=deviations)
    token = replace(token, varied=varied, variant=variant)
    assert parse(str(token)) == token


@pytest.mark.parametrize(
    "text",
    [
        "",
        "explore:3:42:fifo",
        "explore:3:42:fifo:",
        "explore:3:42:fifo:2=1",
        "explore:3:42:lifo::00000000",
        "explore:3:42:fifo:1:00000000",
        "explore:3:42:fifo:2=1,1=1:00000000",
        "explore:3:42:fifo:1=1,1=2:00000000",
        "explore:3:42:fifo:999999999999=1:00000000",
        "explore:3:42:fifo:2=1:00000000:1",
        "explore:0:42:fifo::00000000",
        "explore:101:42:fifo::00000000",
        "explore:3:42:fifo:2=0:00000000",
        "explore:3:42:fifo::00000000:3.1",
        f"explore:3:{'9' * 5000}:fifo::00000000",
        f"explore:3:42:fifo:2={'9' * 5000}:00000000",
        "crowd",
        "crowd:1",
        "crowd:a:1",
        "crowd:1:-1",
        "cancel:4",
        "cancel:4:1",
        "cancel:4:1:xyz",
        "cancel:x:1:00000000",
        "fault:4:1:00000000",
        "crowd:0:1",
        "cancel:1:1:00000000/0",
        "cancel:1:1:00000000@",
        "cancel:+1:1:00000000",
        "crowd:²:1",
        "crowd:1:2:3",
        "test",
        "test:1:2",
        "test:x",
    ],
)
def test_what_is_no_token_is_refused_with_the_right_form(text):
    """Otherwise something else would be played."""
    with pytest.raises(TokenError, match="crowd:100:4242"):
        parse(text)
