"""A chain of references as a person would say it: ``app.store.cache → dict['last'] → Message.text``."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import Context
from functools import _lru_cache_wrapper, partial
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MemberDescriptorType,
    MethodType,
    TracebackType,
)
from typing import Any

from pytest_isolation.users import canary
from pytest_isolation.users.holding import Chain, is_module
from pytest_isolation.users.whereabouts import line

_LONGEST = 40
_ERROR_LINKS = ("__traceback__", "__context__", "__cause__", "args")
# Of objects that are written in C, whose parts have no other names.
_KNOWN_LINKS = ("__self__", "__func__", "__wrapped__", "_coro", "_callbacks", "_exception", "_result", "_fut_waiter")
_SUSPENDED = (CoroutineType, GeneratorType, AsyncGeneratorType)

Step = tuple[str, int]  # what is said of a link, and how many links that takes


def tell(chain: Chain, roots: Mapping[str, object] | None = None) -> str:
    """Say what keeps an object alive.

    Args:
        chain: from a root to the object.
        roots: what lives by right, such as what fixtures made, by what it is called.
    """
    links, named = chain.links, {id(one): name for name, one in (roots or {}).items()}
    said = [*_head(chain)]
    at = 0
    while at < len(links) - 1:
        name = named.get(id(links[at])) if at == 0 else None
        text, taken = _step(links[at:], name)
        if said and text.endswith(f" of {said[-1]}"):  # a function that a module has is named once
            said.pop()
        said += [text] if text else []
        at += taken
    return " → ".join(said)


def _head(chain: Chain) -> Iterator[str]:
    if chain.frame is not None:
        yield _local(chain.frame, chain.links[0])
    elif chain.outside and type(chain.links[0]) is Context:
        yield "the current Context"
    elif chain.outside:
        hidden = "or by what gc.freeze() hides, " if gc.get_freeze_count() else ""
        yield f"held by C code, {hidden}{chain.outside} reference{'s' if chain.outside > 1 else ''}"


def _step(links: Sequence[Any], name: str | None) -> Step:
    """What is said of the way from the first of these to the next, or to one after that."""
    one, part = links[0], links[1]
    if name is not None:
        return (f"{name} {_key_of(one, part)}", 1) if type(one) is dict else (f"{name}.{_attribute(one, part)}", 1)
    if is_module(one):
        return f"{one['__name__']}.{_plain_key_of(one, part)}", 1
    kind = type(one)
    for some, say in _SAYERS:
        if issubclass(kind, some):
            return say(links)
    return _of_instance(links)


def _of_class(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    name = f"{one.__module__}.{_short(one.__qualname__)}"
    if type(part) is dict and len(links) > 2:
        return f"{name}.{_plain_key_of(part, links[2])}", 2
    found = next((key for key, value in [*vars(one).items()] if value is part), None)
    return (name if found is None else f"{name}.{found}"), 1


def _of_function(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    name = f"{one.__module__}.{_short(one.__qualname__)}"
    if part is one.__closure__ and len(links) > 2:
        names = [name for name, cell in zip(one.__code__.co_freevars, one.__closure__, strict=True) if cell is links[2]]
        return f"closure {names[0]!r} of {name}" if names else name, 3 if len(links) > 3 else 2
    if part is one.__defaults__ or part is one.__kwdefaults__:
        return f"default of {name}", min(2, len(links) - 1)
    if part is one.__dict__ and len(links) > 2:
        return f"{name}.{_plain_key_of(part, links[2])}", 2
    return name, 1


def _of_method(links: Sequence[Any]) -> Step:
    return f"bound method {_name(links[0].__self__)}.{links[0].__name__}", 1


def _of_partial(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    taken = 2 if part is one.args or part is one.keywords else 1
    return f"partial of {_called(one.func)}", min(taken, len(links) - 1)


def _of_cache(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    is_table = type(part) is dict and one.cache_parameters()["maxsize"] is None and part is not vars(one)
    return f"lru_cache of {_called(one)}", 2 if is_table and len(links) > 2 else 1


def _of_context(links: Sequence[Any]) -> Step:
    taken = next(n for n, link in enumerate(links) if n and not type(link).__name__.startswith("hamt"))
    names = [variable.name for variable, value in links[0].items() if value is links[taken]]
    return f"ContextVar {names[0]!r}" if names else "ContextVar", taken


def _of_thread_local(links: Sequence[Any]) -> Step:
    """It refers to what each thread has, by thread, in a dictionary or two."""
    for at, link in enumerate(links[:-1]):
        if type(link) is dict and link and all(isinstance(key, str) for key in link):
            return f"thread-local {_key_of(link, links[at + 1])}", at + 1
    return "thread-local", 1


def _of_suspended(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    if issubclass(type(part), _SUSPENDED):
        return "", 1  # it awaits the next one, which says more
    frames = (getattr(one, name, None) for name in ("cr_frame", "gi_frame", "ag_frame"))
    frame = next((frame for frame in frames if frame is not None), None)
    return _of_frame([frame, *links[1:]]) if frame is not None else (_short(one.__qualname__), 1)


def _of_frame(links: Sequence[Any]) -> Step:
    if type(links[1]) is CellType and len(links) > 2:  # a variable that an inner function has too
        return _local(links[0], links[2]), 2
    return _local(links[0], links[1]), 1


def _of_traceback(_links: Sequence[Any]) -> Step:
    return "", 1


def _of_error(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    if type(part) is FrameType:
        return f"{_name(one)}.__traceback__", 1
    for name in _ERROR_LINKS:
        if getattr(one, name, None) is part:
            return f"{_name(one)}.{name}", 1
    return _of_instance(links)


def _of_task(links: Sequence[Any]) -> Step:
    return f"task of {_called(links[0].get_coro())}", 1


def _of_handle(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    what = "timer" if issubclass(type(one), asyncio.TimerHandle) else "handle"
    what = f"{what} that calls {_called(one._callback)}"
    return (f"argument of a {what}", 2) if part is one._args and len(links) > 2 else (what, 1)


def _of_dict(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    if any(key is part for key in [*dict.keys(one)]):
        return f"key of a {_name(one)}", 1
    key = _key_of(one, part)
    return (f"{_name(one)}[{key}]", 1) if key else _of_instance(links)


def _of_sequence(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    base: Any = next(some for some in (list, tuple, deque) if issubclass(type(one), some))
    at = next((n for n, value in enumerate([*base.__iter__(one)]) if value is part), None)
    if at is None:
        return _of_instance(links)
    fields = getattr(type(one), "_fields", None)
    return f"{_name(one)}.{fields[at]}" if fields else f"{_name(one)}[{at}]", 1


def _of_set(links: Sequence[Any]) -> Step:
    return f"in a {_name(links[0])}", 1


def _of_cell(_links: Sequence[Any]) -> Step:
    return "closure", 1


def _of_thread(links: Sequence[Any]) -> Step:
    text, taken = _of_instance(links)
    return f"thread {links[0].name!r} → {text}", taken


def _of_instance(links: Sequence[Any]) -> Step:
    one, part = links[0], links[1]
    own = _dict_of(one)
    if own is not None and part is own and len(links) > 2:
        return f"{_name(one)}.{_plain_key_of(own, links[2])}", 2
    attribute = _attribute(one, part)
    return f"{_name(one)}.{attribute}" if attribute else _name(one), 1


_SAYERS: Sequence[tuple[type | tuple[type, ...], Callable[[Sequence[Any]], Step]]] = (
    (type, _of_class),
    (FunctionType, _of_function),
    (MethodType, _of_method),
    (partial, _of_partial),
    (_lru_cache_wrapper, _of_cache),
    (Context, _of_context),
    (threading.local, _of_thread_local),
    (_SUSPENDED, _of_suspended),
    (FrameType, _of_frame),
    (TracebackType, _of_traceback),
    (BaseException, _of_error),
    (asyncio.Task, _of_task),
    (asyncio.Handle, _of_handle),
    (dict, _of_dict),
    ((list, tuple, deque), _of_sequence),
    ((set, frozenset), _of_set),
    (CellType, _of_cell),
    (threading.Thread, _of_thread),
)


def _local(frame: FrameType, part: object) -> str:
    """A variable of a function that runs, waits, or has raised."""
    code = frame.f_code
    where = f"{_short(code.co_qualname)}, {line(code.co_filename, frame.f_lineno)}"
    name = next((name for name, value in frame.f_locals.items() if value is part), None)
    return f"local {name!r} of {where}" if name is not None else where


def _attribute(one: object, part: object) -> str:
    own = _dict_of(one)
    pairs: Iterable[tuple[str, object]] = own.items() if own is not None else ()
    found = next((str(name) for name, value in [*pairs] if value is part), None)
    return found or next((name for name in _slots(one) if _slot(one, name) is part), "")


def _slots(one: object) -> Iterator[str]:
    for kind in type(one).__mro__:
        yield from (name for name, value in vars(kind).items() if type(value) is MemberDescriptorType)
    yield from _KNOWN_LINKS


def _slot(one: object, name: str) -> object:
    try:
        return object.__getattribute__(one, name)
    except (AttributeError, TypeError, ValueError):
        return None


def _dict_of(one: object) -> dict[str, Any] | None:
    """What ``vars()`` gives, whatever the class makes of it."""
    found = _slot(one, "__dict__")
    return found if type(found) is dict else None


def _key_of(one: dict[Any, Any], part: object) -> str:
    """As it is kept, whatever a class of its own makes of it."""
    return next((_shown_key(key) for key, value in [*dict.items(one)] if value is part), "")


def _plain_key_of(one: dict[str, Any], part: object) -> str:
    return next((str(key) for key, value in [*dict.items(one)] if value is part), "…")


def _shown_key(key: object) -> str:
    if isinstance(key, str | bytes):
        return "'…'" if canary.find(key) else repr(key) if len(key) <= _LONGEST else f"{key[: _LONGEST - 1]!r}…"
    if isinstance(key, int | float | bool):
        return "…" if isinstance(key, int) and canary.may_hold(str(key)) else repr(key)
    return "…" if isinstance(key, tuple) else _name(key)


def _name(one: object) -> str:
    return _short(type(one).__qualname__)


def _called(one: Any) -> str:
    """What a function, or whatever is called, is called."""
    while isinstance(one, partial):
        one = one.func
    name = getattr(one, "__qualname__", None)
    if name is None:
        return _name(one)
    module = getattr(one, "__module__", None)
    return f"{module}.{_short(name)}" if isinstance(module, str) and module != "builtins" else _short(name)


def _short(qualname: str) -> str:
    return qualname.rpartition("<locals>.")[2]
