"""Whose work is being done: a variable that follows a user into the tasks it starts and the threads that run for it."""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TypeVar

from pytest_isolation.users.cast import User

T = TypeVar("T")

ASKING: ContextVar[bool] = ContextVar("pytest_isolation_asking", default=False)
"""What a user's task awaits now is a question of this plugin, and no part of the scenario."""
AT_WORK: ContextVar[User | None] = ContextVar("pytest_isolation_at_work", default=None)
"""The user whose Context this is; None outside of a scenario, and in a thread that was started without a Context."""


async def asking(question: Awaitable[T]) -> T:
    """Wait for a question of this plugin in a user's task, who is not to be cut there."""
    token = ASKING.set(True)
    try:
        return await question
    finally:
        ASKING.reset(token)
