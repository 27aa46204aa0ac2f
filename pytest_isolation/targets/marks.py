"""Whose a request is: said by the clients of users to an application that is served in this process, and to no other.

The application never sees it. While it works on the request, that user is at work: what is logged, and started, and
taken from a pool counts as if it were done in the user's own task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import User

MARK = "x-pytest-isolation-user"
_IN_ENVIRON = "HTTP_X_PYTEST_ISOLATION_USER"

Who = Callable[[str], User | None]


@dataclass(frozen=True, slots=True)
class Reach:
    """What a user's client reaches.

    Attributes:
        url: of the application, or of what stands before it.
        mark: what its requests bear; None bears nothing.
        allow_remote: it may reach other machines.
    """

    url: str
    mark: str | None = None
    allow_remote: bool = False


def mark_of(user: User) -> str:
    """What the requests of a user bear."""
    return str(user._number)


def take_from_headers(headers: list[tuple[bytes, bytes]], who: Who) -> list[tuple[bytes, bytes]]:
    """The headers that an application is to see; the user is at work in the calling task from now on."""
    name = MARK.encode()
    mark = next((value.decode("latin-1") for key, value in headers if key == name), "")
    AT_WORK.set(who(mark))
    return [pair for pair in headers if pair[0] != name] if mark else headers


@contextmanager
def taken_from_environ(environ: dict[str, Any], who: Who) -> Iterator[None]:
    """The same for WSGI, in the calling thread and until the block ends."""
    token = AT_WORK.set(who(str(environ.pop(_IN_ENVIRON, ""))))
    try:
        yield
    finally:
        AT_WORK.reset(token)
