"""How often a test asked for checks from code, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_isolation.errors import NothingMeasured


@dataclass(slots=True)
class Checks:
    """How often a test asked for a check from code, and how many of them got to their end.

    Attributes:
        asked: for a check.
        ended: those that did.
        cancelled: those that were.
        in_sync_code: asked for one that is to be awaited, where nothing can be.
    """

    asked: int = 0
    ended: int = 0
    cancelled: int = 0
    in_sync_code: int = 0

    def ask(self) -> int:
        """One more is asked for: which one that is."""
        self.asked += 1
        return self.asked

    def refuse_unfinished(self) -> None:
        """Refuse a test that would be green without having been checked.

        Raises:
            NothingMeasured: it says what became of the checks.
        """
        if not self.asked:
            raise NothingMeasured("the test takes `isolation`, and never called it: await isolation.check(scenario)")
        if self.cancelled:
            raise NothingMeasured("isolation.check was cancelled before it had got to its end, so it proved nothing")
        if self.ended < self.asked and self.in_sync_code:
            raise NothingMeasured(
                "isolation.check was called in a sync test, where nobody can await it, so nothing was played. Make the "
                "test async: async def test_it(isolation): await isolation.check(scenario)"
            )
        if self.ended < self.asked:
            raise NothingMeasured(
                f"isolation.check was called {self.asked} times, and {self.asked - self.ended} of them did not get to "
                "the end before the test did: await isolation.check(scenario)"
            )
