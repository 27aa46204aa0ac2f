"""Counts what connections of redis-py have asked and what they were told: a reply that nobody reads is the next one's.

redis-py looks for such a reply when it lends a connection, and finds it if it has arrived by then.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

Owed = WeakKeyDictionary[Any, int]


def counting(kind: type, owed: Owed) -> dict[str, Callable[..., Any]]:
    """Methods for a subclass of a connection's class, sync or async.

    Args:
        kind: the class.
        owed: how many replies each connection has not read.
    """
    before: Any = kind

    def send_packed_command(self: Any, command: Any, *args: Any, **options: Any) -> Any:
        def sent(result: Any) -> Any:
            owed[self] = owed.get(self, 0) + commands_in(command)
            return result

        return _then(before.send_packed_command(self, command, *args, **options), sent)

    def read_response(self: Any, *args: Any, **options: Any) -> Any:
        def read(result: Any) -> Any:
            owed[self] = max(0, owed.get(self, 0) - 1)
            return result

        try:
            return _then(before.read_response(self, *args, **options), read)
        except Exception as error:
            _note_reply(error, read)
            raise

    def disconnect(self: Any, *args: Any, **options: Any) -> Any:
        owed.pop(self, None)
        return before.disconnect(self, *args, **options)

    return {"send_packed_command": send_packed_command, "read_response": read_response, "disconnect": disconnect}


def _then(result: Any, done: Callable[[Any], Any]) -> Any:
    return _finish(result, done) if inspect.isawaitable(result) else done(result)


async def _finish(result: Any, done: Callable[[Any], Any]) -> Any:
    try:
        value = await result
    except Exception as error:
        _note_reply(error, done)
        raise
    return done(value)


def _note_reply(error: Exception, read: Callable[[Any], Any]) -> None:
    """An error that the server answered with is a reply, too."""
    if any(kind.__name__ == "ResponseError" for kind in type(error).__mro__):
        read(None)


def unread(owed: Owed, connection: Any) -> str:
    """``2 replies that nobody has read``; empty if there is none."""
    count = owed.get(connection, 0)
    return f"{count} repl{'y' if count == 1 else 'ies'} that nobody has read" if count else ""


def commands_in(packed: Any) -> int:
    r"""How many commands there are in what is sent: ``*2\r\n$3\r\nGET\r\n$1\r\nx\r\n`` is one."""
    if isinstance(packed, str):
        packed = packed.encode()
    chunks: Iterable[Any] = [packed] if isinstance(packed, bytes | bytearray | memoryview) else packed
    data, at, count = b"".join(bytes(chunk) for chunk in chunks), 0, 0
    while data[at : at + 1] == b"*":
        words, at = _number(data, at)
        for _ in range(words):
            length, at = _number(data, at)
            at += length + 2
        count += 1
    return count


def _number(data: bytes, at: int) -> tuple[int, int]:
    end = data.index(b"\r\n", at)
    return int(data[at + 1 : end]), end + 2
