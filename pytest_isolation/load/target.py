"""What is put under load, as its users know it: the little that a backend, an application and a URL have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pytest_isolation.users.cast import User

NO_ROUTE = (404, 405)
ROUTES = (
    "An application is asked POST /chat, GET /messages and WS /ws, as `isolation serve` answers them; one with other "
    "routes gets these beside them (docs/howto/load-test.md, An application with other routes)"
)
"""What is expected, for whoever was answered that there is no such route."""


class WrongAnswer(Exception):
    """An answer came, and it is not the right one."""


class Refused(Exception):
    """An answer came, and it is a refusal.

    Args:
        asked: which route.
        status: the HTTP status.
        said: the rest of the answer, cut.
    """

    def __init__(self, asked: str, status: int, said: str) -> None:
        super().__init__(f"{asked}: {status} {said}")
        self.status = status


class ConnectionLost(Exception):
    """No answer came, because there is no connection any more, or never was."""


Receive = Callable[[], Awaitable[object]]


class Seat(Protocol):
    """A place from which one user after another makes requests, with connections of its own.

    Whatever arrives here is observed by the user at once.
    """

    async def ask(self, user: User, message: str, end: str = "") -> str:
        """Say something, and have the answer.

        Args:
            user: who asks.
            message: what is said.
            end: a text for the last event, where a target lets its users send one.
        """

    def listen(self, user: User) -> AbstractAsyncContextManager[Receive]:
        """Have the user's events for the time of the block, each by awaiting what the block gets."""

    def is_last(self, event: object, message: str, end: str) -> bool:
        """Whether this is the last event of a request."""

    async def read(self, user: User) -> Sequence[str]:
        """Everything that the user has said until now."""

    async def aclose(self) -> None:
        """Give the connections back."""


class Target(Protocol):
    """What is under load.

    Attributes:
        name: for the report.
    """

    name: str

    async def start(self) -> None:
        """Get ready.

        Raises:
            MisuseError: it cannot be started: why, and what to do.
        """

    async def aclose(self) -> None:
        """Leave nothing behind."""

    @property
    def pid(self) -> int | None:
        """The process whose memory is watched; None if it is nobody's business."""

    def seat(self) -> Seat:
        """A new place."""
