"""A token reads back as what it was written for, and anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.errors import TokenError
from pytest_isolation.phases.token import Token, parse


@given(st.integers(0, 10**12), st.none() | st.integers(1, 10**6))
def test_a_token_survives_the_command_line(seed, users):
    """What the report prints is what the option reads."""
    assert parse(str(Token(seed, users))) == Token(seed, users)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "crowd",
        "crowd:1",
        "crowd:a:1",
        "crowd:1:-1",
        "cancel:4",
        "crowd:0:1",
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
