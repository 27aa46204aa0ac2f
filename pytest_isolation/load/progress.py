"""How far a load test is: one line that changes on a terminal, a line for each phase elsewhere."""

from __future__ import annotations

from typing import TextIO

from pytest_isolation.load.tally import PhaseTally


class Progress:
    """Tells a person.

    Args:
        stream: where to; a terminal gets the changing line.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._width = 0

    def tick(self, tally: PhaseTally, now: float, users: int, under_way: int, leaks: int) -> None:
        """Say how it is now.

        Args:
            tally: of the phase.
            now: on the clock of ``perf_counter``.
            users: how many there are.
            under_way: how many requests have begun and not ended.
            leaks: how many requests got a secret of somebody else.
        """
        if not self._live:
            return
        phase = tally.phase
        done_s = min(now - tally.begun, phase.seconds)
        text = (
            f"{phase.name} {done_s:.0f}/{phase.seconds:.0f} s, {users} users: {tally.attempts:,} attempts, "
            f"{tally.errors:,} errors, {leaks:,} leaks, {under_way:,} under way"
        )
        self._stream.write(f"\r{text:<{self._width}}")
        self._stream.flush()
        self._width = len(text)

    def ended(self, tally: PhaseTally) -> None:
        """Say how a phase went."""
        self.say(
            f"{tally.phase.name}: {tally.attempts:,} attempts in {tally.seconds:.3g} s, {tally.errors:,} errors"
            + (f", {tally.dropped:,} arrivals dropped" if tally.dropped else "")
        )

    def say(self, text: str) -> None:
        """Say something in a line of its own."""
        erased = f"\r{'':<{self._width}}\r" if self._live else ""
        self._width = 0
        self._stream.write(f"{erased}{text}\n")
        self._stream.flush()
