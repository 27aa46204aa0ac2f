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

    def pending(self) -> Sequence[Any]:
        """Those that have not run out."""
        if self._trio is None:
            scheduled: Sequence[Any] = getattr(self._loop, "_scheduled", ())
            return [one for one in scheduled if not one.cancelled() and self._is_own(one._context)]
        found, status = [], self._status()
        while status is not None and status is not self._outer:
            if status._scope.deadline != inf:
                found.append(status._scope)
            status = status._parent
        return found

    def expire(self) -> None:
        """Let all of them run out now, before anything else happens."""
        if self._trio is not None:
            for scope in self.pending():
                scope.deadline = self._trio.current_time()
                scope.cancel()  # trio itself would look for what has arrived meanwhile, and first deal with that
            return
        for handle in self.pending():
            handle._when = self._loop.time()
        heapq.heapify(self._loop._scheduled)

    def _status(self) -> Any:
        """Of the innermost cancel scope of the task."""
        return None if self._trio is None else getattr(self._trio.lowlevel.current_task(), "_cancel_status", None)
