"""What one pytest session knows, from its beginning to its end."""

from __future__ import annotations

import secrets
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from pytest_isolation.settings import Settings

if TYPE_CHECKING:
    from pytest_isolation.latency.noise import Clock
    from pytest_isolation.revision.beside import Beside
    from pytest_isolation.revision.process import Revision
    from pytest_isolation.session_baseline import Baseline
    from pytest_isolation.session_budgets import Session
    from pytest_isolation.users.cast import Cast


class State:
    """What one pytest session knows.

    Args:
        settings: what was asked for.
        seed: for a session that was not given one; None picks one.

    Attributes:
        settings: what was asked for.
        seed: determines every canary.
        takes: how often each test has been played, so that a repeated one gets canaries of its own.
        workers: how many processes of xdist share the machine.
        session: collects what is judged at the end; None if nothing is.
        baseline: collects what is stored, and compared with what was; None if nothing is.
        revision: the same tests of an earlier revision; None if nothing is compared with one.
        beside: set in the process of that earlier revision.
    """

    def __init__(
        self,
        settings: Settings,
        seed: int | None,
        workers: int = 1,
        session: Session | None = None,
        baseline: Baseline | None = None,
        revision: Revision | None = None,
        beside: Beside | None = None,
    ) -> None:
        self.settings = settings
        self.seed: int = next(s for s in (settings.seed, seed, secrets.randbelow(10**9)) if s is not None)
        self.takes: Counter[str] = Counter()
        self.workers = workers
        self.session = session
        self.baseline = baseline
        self.revision = revision
        self.beside = beside

    @cached_property
    def clock(self) -> Clock:
        """What the machine adds to a latency; one for the session, so that it learns what is normal."""
        from pytest_isolation.latency.noise import MachineClock

        return MachineClock()

    def cast(self, nodeid: str) -> Cast:
        """New users for one more take of a test."""
        from pytest_isolation.users.cast import Cast

        self.takes[nodeid] += 1
        return Cast(self.seed, nodeid, self.takes[nodeid])


STATE = pytest.StashKey[State]()
