"""Who waits for whom: what those stand at who never go on, who holds it, and the circle that they make."""

from __future__ import annotations

import asyncio
import functools
import gc
from asyncio import Condition, Event, Lock, Queue, Semaphore
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import AsyncGeneratorType, FrameType
from typing import Any
from unittest.mock import patch

_KINDS = (Lock, Semaphore, Queue, Condition, Event)
_STEPS_OF_GENERATORS = frozenset({"async_generator_asend", "async_generator_athrow"})
_TAKES, _GIVES = "takes", "gives"
# Which calls take something and which give it back; a queue is asked without waiting in the end, whoever waits.
_CALLS: tuple[tuple[type[Any], str, str], ...] = (
    (Lock, "acquire", _TAKES),
    (Lock, "release", _GIVES),
    (Semaphore, "acquire", _TAKES),
    (Semaphore, "release", _GIVES),
    (Queue, "get_nowait", _TAKES),
    (Queue, "put_nowait", _GIVES),
)

Name = Callable[[asyncio.Task[Any]], str]


class Holding:
    """Who holds what in one run."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[object, list[asyncio.Task[Any]]]] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """In this block it is written down who takes a lock, a permit or something from a queue, and gives it back."""
        with ExitStack() as patches:
            for kind, name, what in _CALLS:
                patches.enter_context(patch.object(kind, name, self._seen(getattr(kind, name), what)))
            yield

    def of(self, thing: object) -> Sequence[asyncio.Task[Any]]:
        """Who holds something of a thing, whoever has had it for the longest time first."""
        return self._held.get(id(thing), (thing, []))[1]

    def _seen(self, original: Callable[..., Any], what: str) -> Callable[..., Any]:
        note = self._take if what == _TAKES else self._give
        if asyncio.iscoroutinefunction(original):

            @functools.wraps(original)
            async def waits(thing: object, *args: object, **options: object) -> object:
                value = await original(thing, *args, **options)
                note(thing)
                return value

            return waits

        @functools.wraps(original)
        def calls(thing: object, *args: object, **options: object) -> object:
            value = original(thing, *args, **options)
            note(thing)
            return value

        return calls

    def _take(self, thing: object) -> None:
        if (task := _current()) is not None:
            self._held.setdefault(id(thing), (thing, []))[1].append(task)

    def _give(self, thing: object) -> None:
        holders, task = self._held.setdefault(id(thing), (thing, []))[1], _current()
        if task in holders:
            holders.remove(task)
        elif holders and not isinstance(thing, Queue):  # whoever gives it back for another
            del holders[0]


def told(stuck: Sequence[asyncio.Task[Any]], holding: Holding, name: Name, where: Name) -> tuple[str, ...]:
    """Where each of these stands, what it waits for and who has that; and who waits for one another.

    Args:
        stuck: those who never go on.
        holding: who holds what.
        name: of a task.
        where: a task stands.
    """
    edges: dict[asyncio.Task[Any], Sequence[asyncio.Task[Any]]] = {}
    lines = []
    for task in stuck:
        thing, edges[task] = _waits_for(task, holding)
        lines.append(f"{name(task)} stands at {where(task)}{_for_what(thing, edges[task], name)}")
    if circle := _circle(edges):
        lines.append(f"they wait for one another: {' → '.join(map(name, circle))}")
    return tuple(lines)


def _waits_for(task: asyncio.Task[Any], holding: Holding) -> tuple[object, Sequence[asyncio.Task[Any]]]:
    """What a task waits for, and which tasks could give it that."""
    waiter = getattr(task, "_fut_waiter", None)
    if isinstance(waiter, asyncio.Task):
        return waiter, [waiter]
    thing = _innermost(task)
    if isinstance(thing, Condition):
        thing = thing._lock if thing.locked() and not thing._waiters else thing  # type: ignore[attr-defined]
    return thing, [one for one in dict.fromkeys(holding.of(thing)) if one is not task] if thing is not None else []


def _innermost(task: asyncio.Task[Any]) -> object:
    """The last thing of asyncio in whose method a task stands."""
    awaited: Any = task.get_coro()
    found: object = None
    while awaited is not None:
        frame = next((f for n in ("cr_frame", "gi_frame", "ag_frame") if (f := getattr(awaited, n, None))), None)
        if isinstance(frame, FrameType) and isinstance(one := frame.f_locals.get("self"), _KINDS):
            found = one
        awaited = behind(awaited)
    return found


def behind(awaited: object) -> Any:
    """What an awaitable waits for itself; behind a step that is asked of an async generator is the generator."""
    if type(awaited).__name__ in _STEPS_OF_GENERATORS:
        return next((one for one in gc.get_referents(awaited) if isinstance(one, AsyncGeneratorType)), None)
    return next((a for n in ("cr_await", "gi_yieldfrom", "ag_await") if (a := getattr(awaited, n, None))), None)


def _for_what(thing: object, holders: Sequence[asyncio.Task[Any]], name: Name) -> str:
    if thing is None:
        return ""
    if isinstance(thing, asyncio.Task):
        return f", and waits for the task {name(thing)}"
    kind = type(thing).__name__
    if isinstance(thing, Queue):
        whose = f"; taken from it, and not put back, by {_names(holders, name)}" if holders else ""
        return f", and waits for something in a {kind}{whose}"
    verb = "is notified or set" if isinstance(thing, Condition | Event) else "is released"
    whose = f"; it is held by {_names(holders, name)}" if holders else ""
    return f", and waits until a {kind} {verb}{whose}"


def _names(tasks: Sequence[asyncio.Task[Any]], name: Name) -> str:
    return ", ".join(f"{name(task)}, which has ended" if task.done() else name(task) for task in tasks)


def _circle(edges: Mapping[asyncio.Task[Any], Sequence[asyncio.Task[Any]]]) -> list[asyncio.Task[Any]]:
    """Tasks each of which waits for the next, the first one again at the end; empty if there are none."""
    for start in edges:
        path: list[asyncio.Task[Any]] = []
        at: asyncio.Task[Any] | None = start
        while at is not None and at not in path:
            path.append(at)
            at = next((one for one in edges.get(at, ()) if one in edges), None)
        if at is not None:
            return [*path[path.index(at) :], at]
    return []


def _current() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # outside of the loop, where a backend may be made
        return None
