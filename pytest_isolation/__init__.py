"""Request isolation for multi-user backends: nothing of one user reaches another, within a latency budget.

This is *request* isolation (the users of a backend), not *test* isolation. The names here are for annotations and for
hooks; each is imported when it is first asked for, so that a session without a marked test pays for none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_isolation.backend import Agent, Backend, Context, Inbox, Request, Session
    from pytest_isolation.errors import IsolationError, IsolationWarning
    from pytest_isolation.fresh import Fresh
    from pytest_isolation.from_code import Isolation
    from pytest_isolation.measuring import Latency
    from pytest_isolation.model import Confidence, Evidence, Finding, Kind, Observation, Report, Run
    from pytest_isolation.targets.intermediary import Proxy
    from pytest_isolation.users.cast import User
    from pytest_isolation.users.story import Story
    from pytest_isolation.verdicts import MemoryVerdict, Verdict
    from pytest_isolation.weighing import Memory

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Backend",
    "Confidence",
    "Context",
    "Evidence",
    "Finding",
    "Fresh",
    "Inbox",
    "Isolation",
    "IsolationError",
    "IsolationWarning",
    "Kind",
    "Latency",
    "Memory",
    "MemoryVerdict",
    "Observation",
    "Proxy",
    "Report",
    "Request",
    "Run",
    "Session",
    "Story",
    "User",
    "Verdict",
]

_HOMES = {
    "backend": ("Agent", "Backend", "Context", "Inbox", "Request", "Session"),
    "errors": ("IsolationError", "IsolationWarning"),
    "fresh": ("Fresh",),
    "from_code": ("Isolation",),
    "measuring": ("Latency",),
    "model": ("Confidence", "Evidence", "Finding", "Kind", "MemoryVerdict", "Observation", "Report", "Run", "Verdict"),
    "targets.intermediary": ("Proxy",),
    "users.cast": ("User",),
    "users.story": ("Story",),
    "weighing": ("Memory",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"pytest_isolation.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
