"""A backend that can be made anew, for tests in which every order of steps is played on a backend of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fresh:
    """What a fixture returns in the place of a backend: ``return Fresh(open_shop)``.

    The body of an async test is given what ``open_backend()`` makes: one for the whole test, in the loop of the test;
    and with ``@pytest.mark.isolation(explore=1)`` another one for every order that is explored.

    Args:
        open_backend: a function that returns a new backend, an awaitable of one, or a context manager; a backend with
            ``aclose`` is closed.
    """

    open_backend: Callable[[], Any]

    def __post_init__(self) -> None:
        if not callable(self.open_backend):
            raise TypeError(f"Fresh takes a function that makes a backend: Fresh(open_shop), not {self.open_backend!r}")
