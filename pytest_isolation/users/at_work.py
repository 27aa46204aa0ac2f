"""Whose work is being done: a variable that follows a user into the tasks it starts and the threads that run for it."""

from __future__ import annotations

from contextvars import ContextVar

from pytest_isolation.users.cast import User

AT_WORK: ContextVar[User | None] = ContextVar("pytest_isolation_at_work", default=None)
"""The user whose Context this is; None outside of a scenario, and in a thread that was started without a Context."""
