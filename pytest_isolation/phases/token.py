"""Replay tokens: a phase, and all it needs to be played the same way again."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_isolation.errors import TokenError

_FORM = "the form is crowd:USERS:SEED or test:SEED, for example crowd:100:4242, as the report of a finding prints it"


@dataclass(frozen=True, slots=True)
class Token:
    """What ``--isolation-replay`` plays again.

    Attributes:
        seed: of the session in which it was found.
        users: how many play at once; None where the test itself says so.
    """

    seed: int
    users: int | None = None

    def __str__(self) -> str:
        return f"test:{self.seed}" if self.users is None else f"crowd:{self.users}:{self.seed}"


def parse(text: str) -> Token:
    """Read a token.

    Raises:
        TokenError: it is none.
    """
    phase, *numbers = text.split(":")
    if {"crowd": 2, "test": 1}.get(phase) != len(numbers) or not all(n.isascii() and n.isdigit() for n in numbers):
        raise TokenError(f"{text!r} is no replay token: {_FORM}")
    *users, seed = map(int, numbers)
    if 0 in users:
        raise TokenError(f"{text!r} would be played by nobody: {_FORM}")
    return Token(seed, *users)
