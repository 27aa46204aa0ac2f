"""What the whole process shares, whoever it works for: environment, folder, locale, logging, signals, warnings, …"""

from __future__ import annotations

import asyncio
import contextvars
import locale
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from pytest_isolation.loops import SERVED, on_asyncio
from pytest_isolation.model import Change
from pytest_isolation.phases.thread_locals import OF_THREADS, Locals, secrets_in

_ATOMS = (type(None), bool, int, float, str, bytes)
_OF_LOGGERS = ("the level of logger ", "the list of handlers of logger ", "the list of filters of logger ")
_SERVED = "the event loop of isolation_app"
_SIGNALS = [
    (one, f"the handler of signal {one.name}")
    for one in signal.valid_signals()
    if isinstance(one, signal.Signals) and not one.name.startswith("SIGRT")
]
# Without a name for what is no function of Python's, which takes ten times as long.
_handler = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)
_OF_PROCESSES = ("ignore", None, BytesWarning, None, 0)
_LARGEST, _DEEPEST = 1000, 4


class Value(NamedTuple):
    """What something is.

    Attributes:
        text: in words.
        identity: differs from that of any other value, also where the words are the same.
    """

    text: str
    identity: Hashable = None


State = Mapping[str, Value]


def state(some: Locals = ()) -> State:
    """What everybody in the process sees, by name; as the caller sees it, where a Context has a part in it.

    Args:
        some: thread-locals; of them only what bears a secret is told, because all else is their threads' own.
    """
    filters = _filters()
    return {
        **_variables(tuple(_environment().items())),
        "the working directory": Value(_folder()),
        "the locale": Value(locale.setlocale(locale.LC_ALL)),
        "the default timeout of sockets": Value(str(socket.getdefaulttimeout())),
        "warnings.filters": Value(f"{len(filters)} filters", filters),
        **dict(_loggers()),
        **dict(_signals()),
        **dict(_loop()),
        **dict(_decimal()),
        **dict(_context()),
        **{name: Value(text) for name, text in secrets_in(some, _plain)},
    }


def glance() -> tuple[object, ...]:
    """What differs if most of the state does, and now and then where that does not, at a tenth of its price."""
    loggers = [one for one in logging.root.manager.loggerDict.values() if type(one) is not logging.PlaceHolder]
    return (
        _environment(),
        _folder(),
        locale.setlocale(locale.LC_ALL),
        socket.getdefaulttimeout(),
        [*warnings.filters],
        [(one.level, *one.handlers, None, *one.filters) for one in (logging.root, *loggers)],  # type: ignore[union-attr]
    )


def closer_look() -> tuple[object, ...]:
    """What differs if the rest of the state does, thread-locals apart."""
    return ([_handler(number) for number, _ in _SIGNALS], [*_loop()], [*_decimal()], [*_context()])


def changes(before: State, after: State) -> Iterator[Change]:
    """What is not as it was.

    A logger or an application that was not there before is nothing new to anybody, and a secret that is in a
    thread-local no more is as it should be: whose it was may have died only now.
    """
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        is_harmless = old is None and (name.startswith(_OF_LOGGERS) or name.endswith(_SERVED))
        is_harmless |= new is None and name.startswith(OF_THREADS)
        if old != new and not is_harmless:
            yield Change(name, old and old.text, new and new.text)


def _environment() -> dict[str | bytes, str | bytes]:
    """As the system has it, which takes less time than as text."""
    environment: Any = getattr(os.environ, "_data", os.environ)
    return {**environment}


@lru_cache(maxsize=2)
def _variables(encoded: tuple[tuple[str | bytes, str | bytes], ...]) -> Mapping[str, Value]:
    return {f"os.environ[{os.fsdecode(name)!r}]": Value(os.fsdecode(text)) for name, text in encoded}


def _filters() -> tuple[int, ...]:
    """Without the filter that Python itself leaves where two threads start processes at once.

    os.get_exec_path ignores BytesWarning for a moment, and catch_warnings is not made for threads.
    """
    return tuple(id(one) for one in warnings.filters if one != _OF_PROCESSES)


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 # in every run of an exploration, where a Path takes six times as long
    except FileNotFoundError:
        return "a folder that is gone"


def _loggers() -> Iterator[tuple[str, Value]]:
    known = {name: one for name, one in [*logging.root.manager.loggerDict.items()] if isinstance(one, logging.Logger)}
    for name, logger in {"root": logging.root, **known}.items():
        yield f"the level of logger {name!r}", Value(logging.getLevelName(logger.level))
        for what in ("handlers", "filters"):
            some: list[Any] = getattr(logger, what)
            yield (
                f"the list of {what} of logger {name!r}",
                Value(", ".join(map(_name, some)) or "none", tuple(map(id, some))),
            )


def _signals() -> Iterator[tuple[str, Value]]:
    for number, name in _SIGNALS:
        handler = signal.getsignal(number)
        yield name, Value(_name(handler), handler if callable(handler) else None)


def _loop() -> Iterator[tuple[str, Value]]:
    loops = [("the event loop", asyncio.get_running_loop())] if on_asyncio() else []
    for where, loop in [*loops, *((_SERVED, served) for served in [*SERVED])]:
        for what in ("exception_handler", "task_factory"):
            value = getattr(loop, f"get_{what}", lambda: None)()
            yield f"the {what.replace('_', ' ')} of {where}", Value(_name(value), value)


def _decimal() -> Iterator[tuple[str, Value]]:
    if (module := sys.modules.get("decimal")) is not None:
        yield "decimal.DefaultContext", Value(_arithmetic(module.DefaultContext))


def _context() -> Iterator[tuple[str, Value]]:
    """The variables of the caller's Context; what users set is theirs, but what they change in place is not."""
    context = contextvars.copy_context()
    for name in {variable.name for variable in context}:  # nothing keeps two from having one name
        values = [value for variable, value in context.items() if variable.name == name]
        objects = frozenset(id(value) for value in values if type(value) not in _ATOMS)
        yield f"the ContextVar {name!r}", Value("; ".join(sorted(map(_plain, values))), objects)


def _plain(value: Any, depth: int = 0) -> str:
    if type(value) in _ATOMS:
        return repr(value)
    if depth < _DEEPEST and type(value) in (dict, list, tuple, set, frozenset):
        if len(value) > _LARGEST:
            return f"{len(value)} items"
        if isinstance(value, dict):
            items = ", ".join(f"{_plain(k, depth + 1)}: {_plain(v, depth + 1)}" for k, v in [*value.items()])
            return f"{{{items}}}"
        return f"[{', '.join(_plain(part, depth + 1) for part in [*value])}]"
    return _arithmetic(value) if _name(type(value)) == "decimal.Context" else _name(type(value))


def _arithmetic(context: Any) -> str:
    """A context of decimal arithmetic without its flags, which every division may raise."""
    traps = sorted(kind.__name__ for kind, on in context.traps.items() if on)
    return f"prec={context.prec}, rounding={context.rounding}, traps={', '.join(traps)}"


def _name(value: object) -> str:
    name = getattr(value, "__qualname__", None)
    if name is None:
        return "none" if value is None else getattr(value, "name", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', '')}.{name}".lstrip(".")
