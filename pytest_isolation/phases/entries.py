"""Hears what is put into caches under somebody's name: an entry whose key bears a secret, and what it holds.

An entry of nobody's, such as a list of all who are online, may hold what is everybody's; it is left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from pytest_isolation.phases.hearing import plain, text, told_all
from pytest_isolation.users import canary
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import overhear

# The commands that put a value where another one stood; what is pushed or published has a receiver of its own.
_ONE, _ONE_FOR_A_TIME, _SEVERAL = ("SET", "SETNX", "GETSET"), ("SETEX", "PSETEX"), ("MSET", "MSETNX")
_FIELDS = ("HSET", "HMSET", "HSETNX")
_CLIENTS = (
    *(("redis.client", name) for name in ("Redis", "Pipeline")),
    *(("redis.asyncio.client", name) for name in ("Redis", "Pipeline")),
    *(("valkey.client", name) for name in ("Valkey", "Pipeline")),
    *(("valkey.asyncio.client", name) for name in ("Valkey", "Pipeline")),
)
_CACHES = (
    *(("cachetools", f"{name}Cache", "__setitem__") for name in ("", "FIFO", "LRU", "LFU", "RR", "TTL", "TLRU")),
    ("diskcache.core", "Cache", "set"),
    ("aiocache.base", "BaseCache", "set"),
)


def caches() -> Iterator[AbstractContextManager[None]]:
    """What listens to the clients and caches that the backend has imported."""
    for module, kind in _CLIENTS:
        if (owner := getattr(sys.modules.get(module), kind, None)) is not None:
            yield told_all(owner, "execute_command", _hear_command)
    for module, kind, name in _CACHES:
        if (owner := getattr(sys.modules.get(module), kind, None)) is not None:
            yield told_all(owner, name, partial(_hear_entry, module.partition(".")[0]))


def _hear_command(_client: Any, *args: Any, **_options: Any) -> None:
    if len(args) > 2 and (said := text(args[0]).upper()) in _COMMANDS and AT_WORK.get() is not None:
        _hear(f"cache redis {said}", _COMMANDS[said](args[1:]))


def _hear_entry(library: str, _cache: Any, *args: Any, **named: Any) -> None:
    if len(given := [*args, *named.values()]) > 1 and AT_WORK.get() is not None:
        _hear(f"cache {library}", [(given[0], given[1])])


def _hear(channel: str, entries: Iterable[tuple[Any, Any]]) -> None:
    user = AT_WORK.get()
    for key, value in entries:
        if user is not None and canary.may_hold(name := _name(key)):
            overhear(user, channel, {name: plain(value)})


def _name(key: Any) -> str:
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else text(key)


def _in_fields(words: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Of a hash: each field is an entry."""
    name, rest = _name(words[0]), words[1:]
    return [(f"{name} {_name(field)}", value) for field, value in zip(rest[::2], rest[1::2], strict=False)]


_COMMANDS: Mapping[str, Callable[[tuple[Any, ...]], Iterable[tuple[Any, Any]]]] = {
    **dict.fromkeys(_ONE, lambda words: [(words[0], words[1])]),
    **dict.fromkeys(_ONE_FOR_A_TIME, lambda words: [(words[0], words[-1])]),
    **dict.fromkeys(_SEVERAL, lambda words: zip(words[::2], words[1::2], strict=False)),
    **dict.fromkeys(_FIELDS, _in_fields),
}
