"""What a user does when it comes: it plants canaries in all that it says, and looks at all that it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter

from pytest_isolation.load.plan import Operation
from pytest_isolation.load.target import Seat, WrongAnswer
from pytest_isolation.users.cast import User


class Visitor:
    """A user for the time that it stays.

    Args:
        user: who it is.
        echo: the target's answers hold what was said, so one that does not is wrong.

    Attributes:
        user: see above.
        turn: how many messages it has begun to say.
        echoes: how many answers held what was said.
        said: those that were answered.
        heard_at: when it knew enough, on the clock of ``perf_counter``; None is when the operation ended.
    """

    __slots__ = ("echo", "echoes", "heard_at", "said", "turn", "user")

    def __init__(self, user: User, echo: bool) -> None:
        self.user = user
        self.echo = echo
        self.turn = self.echoes = 0
        self.said: list[str] = []
        self.heard_at: float | None = None

    def next_message(self) -> str:
        """Something to say: a canary that no other message has."""
        self.turn += 1
        return self.user.secret(f"message {self.turn}")

    def take(self, answer: str, message: str) -> None:
        """Look at an answer.

        Raises:
            WrongAnswer: it is none to this message.
        """
        if not isinstance(answer, str):
            raise WrongAnswer(f"the answer is {answer!r}, and not a text")
        self.echoes += message in answer
        if self.echo and message not in answer:
            raise WrongAnswer(f"the answer lacks what was said: {answer!r}")
        self.said.append(message)


Act = Callable[[Seat, Visitor, float], Coroutine[object, object, None]]


async def chat(seat: Seat, visitor: Visitor, _until: float) -> None:
    """Say something and have the answer."""
    message = visitor.next_message()
    visitor.take(await seat.ask(visitor.user, message), message)


async def websocket(seat: Seat, visitor: Visitor, _until: float) -> None:
    """Connect, say something, have the answer and every event up to the last."""
    message = visitor.next_message()
    end = visitor.user.secret(f"end {visitor.turn}")
    async with seat.listen(visitor.user) as receive:
        visitor.take(await seat.ask(visitor.user, message, end), message)
        while not seat.is_last(await receive(), message, end):
            pass
        visitor.heard_at = perf_counter()


async def messages(seat: Seat, visitor: Visitor, _until: float) -> None:
    """Read all that was said; what was answered before must be among it.

    Raises:
        WrongAnswer: it is not.
    """
    texts = await seat.read(visitor.user)
    missing = [message for message in visitor.said if message not in texts]
    if missing:
        raise WrongAnswer(f"{len(missing)} of {len(visitor.said)} messages are not kept, the first is {missing[0]!r}")


async def idle(seat: Seat, visitor: Visitor, until: float) -> None:
    """Connect, and stay for a while without a word: what arrives then is for somebody else, or late."""
    async with seat.listen(visitor.user) as receive:
        visitor.heard_at = perf_counter()
        try:
            async with asyncio.timeout(max(0.0, until - visitor.heard_at)) as patience:
                while True:
                    await receive()
        except TimeoutError:
            if not patience.expired():
                raise


ACTS: dict[Operation, Act] = {
    Operation.CHAT: chat,
    Operation.WEBSOCKET: websocket,
    Operation.MESSAGES: messages,
    Operation.IDLE: idle,
}
