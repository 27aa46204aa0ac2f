"""Lets what limits the time of one run expire: the timers of asyncio that it has set, or its cancel scopes on trio.

Neither library has a public way to ask for them.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections.abc import Callable, Sequence
from contextvars import Context
from math import inf
from typing import Any

# What asyncio.timeout, async_timeout, anyio's cancel scopes and asyncio.wait_for have called when the time is over.
_CANCELLING = frozenset({"_on_timeout", "_timeout", "_release_waiter"})


class Timers:
    """What may run out in one run, as the task sees it that makes them.

    Args:
        is_own: a timer of asyncio was set in this Context by this run.

    Attributes:
        are_shown: the library shows them; uvloop does not.
    """

    def __init__(self, is_own: Callable[[Context], bool]) -> None:
        trio = sys.modules.get("trio")
        self._is_own = is_own
        self._loop: Any = asyncio._get_running_loop()
        self._trio: Any = trio if self._loop is None else None
        self._outer: Any = self._status()
        self.are_shown = hasattr(self._loop, "_scheduled") or hasattr(self._outer, "_parent")

    def pending(self, awaited: object = None, asleep: bool = False) -> Sequence[Any]:
        """Those that have not run out, without what would only end a sleep: that limits nothing.

        Args:
            awaited: what the task gave to asyncio.
            asleep: it is in a sleep of trio, which has a scope of its own.
        """
        if self._trio is None:
            scheduled: Sequence[Any] = getattr(self._loop, "_scheduled", ())
            own = [one for one in scheduled if not one.cancelled() and self._is_own(one._context)]
            return [one for one in own if not _only_wakes(one, awaited)]
        found, status = [], self._status()
        while status is not None and status is not self._outer:
            if status._scope.deadline != inf:
                found.append(status._scope)
            status = status._parent
        return found[asleep:]

    def expire(self, awaited: object = None, asleep: bool = False) -> None:
        """Let them run out now, before anything else happens.

        Of those that cancel the task only the first that would: it is met by the code that it guards, while of several
        at once only the outermost is. What else has been set comes due.

        Args:
            awaited: see ``pending``.
            asleep: see there.
        """
        pending = self.pending(awaited, asleep)
        if self._trio is not None:
            for scope in _first_of(pending, lambda scope: scope.deadline):
                scope.deadline = self._trio.current_time()
                scope.cancel()  # trio itself would look for what has arrived meanwhile, and first deal with that
            return
        limits = [handle for handle in pending if getattr(handle._callback, "__name__", "") in _CANCELLING]
        others = [handle for handle in pending if handle not in limits]
        own = [handle for handle in limits if _guards(handle, asyncio.current_task(), awaited)]
        for handle in (*_first_of(own or limits, asyncio.TimerHandle.when), *others):
            owner: Any = getattr(handle._callback, "__self__", None)
            if type(owner).__module__.startswith("anyio."):  # it would look at the clock, and set another timer
                owner.deadline = self._loop.time()
            else:
                handle._when = self._loop.time()
        heapq.heapify(self._loop._scheduled)

    def _status(self) -> Any:
        """Of the innermost cancel scope of the task."""
        return None if self._trio is None else getattr(self._trio.lowlevel.current_task(), "_cancel_status", None)


def _guards(handle: Any, task: object, awaited: object) -> bool:
    """It limits what this task does, and not another one of the same run."""
    owner = getattr(handle._callback, "__self__", None)
    of = getattr(owner, "_task", None) or getattr(owner, "_host_task", None)
    return (of is not None and of is task) or any(part is awaited for part in handle._args or ())


def _only_wakes(handle: Any, awaited: object) -> bool:
    name = getattr(handle._callback, "__name__", "")
    return name == "_set_result_unless_cancelled" and handle._args[0] is awaited


def _first_of(some: Sequence[Any], when: Callable[[Any], float]) -> list[Any]:
    return [min(some, key=when)] if some else []
