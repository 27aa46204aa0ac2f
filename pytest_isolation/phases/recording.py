"""Hears what is logged, warned of, printed, traced, counted and written while users are at work.

``oracles.logs`` reads it.

Whatever is done here happens inside the user's own code, so it never raises and never uses anything up. After the
scene no hook or patched function is left.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from pytest_isolation.phases.counting import counters
from pytest_isolation.phases.entries import caches
from pytest_isolation.phases.hearing import plain, text, told, told_all
from pytest_isolation.phases.writing import files
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import overhear
from pytest_isolation.users.snapshot import snapshot

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}

_lock = threading.Lock()
_hooks = ExitStack()
_recordings = 0


@contextmanager
def recording() -> Iterator[None]:
    """Overhear users for as long as this lasts; several may, and end in any order."""
    global _recordings, _hooks  # noqa: PLW0603 # what is hooked is the process's own
    with _lock:
        if not _recordings:
            _hooks = _hooked()
        _recordings += 1
    try:
        yield
    finally:
        with _lock:
            _recordings -= 1
            if not _recordings:
                _hooks.close()


def _hooked() -> ExitStack:
    """What listens; closed, it is gone."""
    with ExitStack() as hooks:
        hooks.enter_context(told_all(logging.Logger, "callHandlers", _hear_record))
        hooks.enter_context(told(warnings, "_showwarnmsg", _hear_warning))
        for name in ("stdout", "stderr"):
            hooks.enter_context(told(getattr(sys, name), "write", _hear_text(name)))
        for other in (*counters(), *caches(), *files()):
            hooks.enter_context(other)
        return hooks.pop_all()


def _hear_record(_logger: logging.Logger, record: object, *_: object) -> None:
    # What asyncio says of a lost exception is said wherever garbage happens to be collected.
    if (user := AT_WORK.get()) is not None and isinstance(record, logging.LogRecord) and record.name != "asyncio":
        overhear(user, f"log {record.name}", _parts(record))


def hear_span(said: Mapping[str, object]) -> None:
    """Note what a span of OpenTelemetry says that ends during a user's work."""
    if (user := AT_WORK.get()) is not None:
        overhear(user, "span", plain({**said}))


def _hear_warning(shown: warnings.WarningMessage) -> None:
    # A resource is missed wherever garbage happens to be collected.
    if (user := AT_WORK.get()) is not None and not issubclass(shown.category, ResourceWarning):
        overhear(user, "warning", text(shown.message))


def _hear_text(channel: str) -> Callable[[object], None]:
    def hear(said: object) -> None:
        if isinstance(said, str) and not said.isspace() and (user := AT_WORK.get()) is not None:
            overhear(user, channel, said)

    return hear


def _parts(record: logging.LogRecord) -> Mapping[str, object]:
    """What a record carries: its message, what was handed over besides, the exception."""
    message = _message(record)
    args = record.args.items() if isinstance(record.args, Mapping) else enumerate(record.args or ())
    unsaid = {str(name): value for name, value in args if not (isinstance(value, str) and value in message)}
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    parts = {"message": message, "args": plain(unsaid), "extra": plain(extra)}
    if record.exc_info and record.exc_info[1] is not None:
        parts["exception"] = snapshot(record.exc_info[1])
    return {name: part for name, part in parts.items() if part}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # what is wrong with it is for the logging module to say
        return text(record.msg)
