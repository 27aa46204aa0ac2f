"""What the two processes say to each other: JSON over a pair of sockets, one message at a time."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from typing import Any

VARIABLE = "ISOLATION_BESIDE"


class Silent(Exception):
    """The other process has ended, or says nothing."""


class Channel:
    """One end of the conversation.

    Args:
        descriptor: of a socket; it is closed with the channel.
    """

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)

    def send(self, **message: Any) -> None:
        """Say something.

        Raises:
            Silent: nobody listens any more.
        """
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError as error:
            raise Silent(str(error)) from error

    def receive(self, patience_s: float | None = None) -> dict[str, Any]:
        """Wait for the next message.

        Args:
            patience_s: how long at most; None waits for ever.

        Raises:
            Silent: the other end is closed, or said nothing for so long.
        """
        try:
            if patience_s is not None and not self._connection.poll(patience_s):
                raise Silent(f"it said nothing for {patience_s:g} s")
            message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise Silent("it has ended") from error
        return message

    def close(self) -> None:
        """End the conversation; the other end notices."""
        self._connection.close()
