"""How far a long test has got, on a terminal: behind the dots, and gone when the test has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO


class Progress:
    """Writes a text behind the cursor and leaves the cursor where it was.

    Args:
        file: the terminal.
        room: how many characters are left on its line.
    """

    def __init__(self, file: TextIO, room: Callable[[], int]) -> None:
        self._file = file
        self._room = room
        self._shown = 0

    def tell(self, text: str) -> None:
        """Show a text in the place of the last one; an empty one takes it away."""
        text = f"  {text}"[: max(0, self._room() - 1)] if text else ""
        blank = max(0, self._shown - len(text))
        self._file.write(text + " " * blank + "\b" * (len(text) + blank))
        self._file.flush()
        self._shown = len(text)
