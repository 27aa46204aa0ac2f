"""A backend in this very process, as the conformance suite knows it (``pytest_isolation.backend``)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from pytest_isolation.backend import Backend, find_factory, make_backend
from pytest_isolation.errors import MisuseError
from pytest_isolation.load.target import Receive
from pytest_isolation.users.cast import User


class BackendTarget:
    """A backend object; it shares the event loop with its users.

    Args:
        target: ``MOD:FACTORY``.

    Attributes:
        name: for the report.

    Raises:
        BackendError: there is none.
    """

    def __init__(self, target: str) -> None:
        self.name = f"{target}, in this process"
        self._backend = make_backend(find_factory(target), target)
        self._agent = ""

    async def start(self) -> None:
        """Start the backend in the running loop.

        Raises:
            MisuseError: it cannot be started, or has no agent.
        """
        try:
            await self._backend.start()
        except Exception as error:
            raise MisuseError(f"{self.name}: its start() raised {type(error).__name__}: {error}") from error
        if not self._backend.agents:
            raise MisuseError(f"{self.name}: it has no agent, so nobody can ask it anything")
        self._agent = self._backend.agents[0]

    async def aclose(self) -> None:
        """Close the backend."""
        await self._backend.aclose()

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def seat(self) -> BackendSeat:
        """A new place."""
        return BackendSeat(self._backend, self._agent)


class BackendSeat:
    """Where a user of a backend sits.

    Args:
        backend: that has been started.
        agent: the kind of agent that is asked.
    """

    __slots__ = ("_agent", "_backend")

    def __init__(self, backend: Backend, agent: str) -> None:
        self._backend = backend
        self._agent = agent

    async def ask(self, user: User, message: str, end: str = "") -> str:
        """Open a request, run an agent in it, and, if asked to, send a last event."""
        async with self._backend.request(user.id) as request:
            agent = await request.agent(self._agent)
            answer = user.observe(await agent.run(message))
            if end:
                await request.emit("agent_completed", {"answer": end})
        return answer

    @asynccontextmanager
    async def listen(self, user: User) -> AsyncIterator[Receive]:
        """Open an inbox."""
        async with self._backend.connect(user.id) as inbox:

            async def receive() -> object:
                return user.observe(await inbox.receive(), "event")

            yield receive
            while inbox.pending():
                await receive()

    def is_last(self, event: object, message: str, end: str) -> bool:  # of the protocol
        """The one that ``ask`` has sent."""
        return isinstance(event, Mapping) and event.get("answer") == end

    async def read(self, user: User) -> Sequence[str]:
        """Read what is stored."""
        async with self._backend.request(user.id) as request, request.session() as session:
            return user.observe(await session.load(), "database")

    async def aclose(self) -> None:
        """A place in a process has no connections."""
