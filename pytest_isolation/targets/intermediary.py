"""What stands between the users and the application, as a team asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_isolation.errors import MisuseError


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """What a proxy in front of the application does: the fixture ``isolation_proxy`` returns it.

    Args:
        connections: to the application, kept alive and shared by all users; at least 1.
        pipeline: requests that come at the same time are sent one after another without waiting for the answers
            (RFC 9112, section 9.3.2), those that may be repeated only.
        cache: keep and share whatever answer a shared cache may (RFC 9111), for as long as it may.

    Raises:
        MisuseError: one of them is nothing of the kind.
    """

    connections: int = 2
    pipeline: bool = False
    cache: bool = False

    def __post_init__(self) -> None:
        if type(self.connections) is not int or self.connections < 1:
            raise MisuseError(f"Proxy(connections={self.connections!r}): a whole number from 1 on is wanted")
        for name, value in (("pipeline", self.pipeline), ("cache", self.cache)):
            if type(value) is not bool:
                raise MisuseError(f"Proxy({name}={value!r}): True or False is wanted")
