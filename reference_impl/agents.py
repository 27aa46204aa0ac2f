"""Agents: a new one for every request, made from a class that is found by name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from reference_impl.context import RequestContext
from reference_impl.database import UserSession


class Tools(Protocol):
    """What an agent may use of the request that it works for."""

    context: RequestContext

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell the user about progress."""

    def session(self) -> AbstractAsyncContextManager[UserSession]:
        """A database session of the user."""


class Agent:
    """Does the work of one request; it is bound to it for life."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def run(self, message: str) -> str:
        """Answer a message of the request's user."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")


class ChatAgent(Agent):
    """Keeps what the user says, and answers with all that this user has said."""

    async def run(self, message: str) -> str:
        """Store the message, and answer with the whole conversation."""
        user_id, emit = self._tools.context.user_id, self._tools.emit
        await emit("agent_started", {"user": user_id})
        await emit("agent_thinking", {"about": message})
        async with self._tools.session() as session:
            await emit("tool_executing", {"tool": "notes"})
            await session.save(message)
            notes = await session.load()
        await emit("tool_completed", {"tool": "notes", "notes": len(notes)})
        answer = f"{user_id} has said: {'; '.join(notes)}"
        await emit("agent_completed", {"answer": answer})
        return answer


class AgentRegistry:
    """Finds agent classes by name; holds no agent."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Agent]] = {}

    def register(self, name: str, kind: type[Agent]) -> None:
        """Make a class known under a name.

        Raises:
            ValueError: the name is taken by another class.
        """
        if self._classes.setdefault(name, kind) is not kind:
            raise ValueError(f"the agent {name!r} is {self._classes[name].__name__} already")

    def find(self, name: str) -> type[Agent]:
        """The class of this name.

        Raises:
            LookupError: there is none.
        """
        kind = self._classes.get(name)
        if kind is None:
            raise LookupError(f"there is no agent {name!r}; there are {', '.join(sorted(self._classes)) or 'none'}")
        return kind

    @property
    def names(self) -> tuple[str, ...]:
        """Every known name."""
        return tuple(self._classes)
