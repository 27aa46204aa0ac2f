"""What is asked of an event loop: who plays next, and how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from math import inf

import anyio

from pytest_isolation.model import Run
from pytest_isolation.phases.driver import Driver
from pytest_isolation.users.cast import User


@dataclass(frozen=True, slots=True)
class Scene:
    """Who plays next, and how.

    Attributes:
        phase: in words.
        users: who plays, all at once if nobody is driven.
        limit_s: who has not ended after this time has not ended.
        rate: arrivals a second; None lets all of them arrive at once.
        pause_s: before it begins.
        drivers: of the first users, who then play one after another, and so do those who come after them.
        turn_s: who goes on for longer than this is not waited for by the one whose turn is next.
    """

    phase: str
    users: Sequence[User]
    limit_s: float = inf
    rate: float | None = None
    pause_s: float = 0.0
    drivers: Sequence[Driver] = ()
    turn_s: float = inf


class InTurn:
    """Users who come one after another, the first of them driven.

    The next one follows at once: what one has left behind may soon be noticed, as by a connection on which a reply
    arrives that nobody waits for.

    Args:
        users: in this order.
        drivers: of the first of them.
        turn_s: who goes on for longer is not waited for any more.
    """

    def __init__(self, users: Sequence[User], drivers: Sequence[Driver], turn_s: float = inf) -> None:
        self._latest_s = {user: turn_s * place for place, user in enumerate(users[1:], 1)}
        self._drivers = dict(zip(users, drivers, strict=False))
        self._gone = {user: anyio.Event() for user in users}
        self._before = dict(zip(users[1:], users, strict=False))

    async def play(self, scenario: Callable[[User], Awaitable[object]], user: User) -> None:
        """Play when it is this user's turn.

        Raises:
            Cut: this one was cancelled.
        """
        if user in self._before:
            with anyio.move_on_after(self._latest_s[user]):  # everybody waits since the beginning
                await self._gone[self._before[user]].wait()
        try:
            if user in self._drivers:
                await self._drivers[user].play(scenario, user)
            else:
                await scenario(user)
        finally:
            self._gone[user].set()


Script = Generator[Scene, list[Run], None]
