"""Conducts one run on a controlled loop: asks a strategy, writes down what was decided, counts, cancels."""

from __future__ import annotations

import asyncio
from asyncio import Handle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pytest_isolation.phases.strategies import FIFO, Options, Strategy


class Stuck(Exception):
    """Nothing in the run can ever go on, or it goes on for ever."""


class Watcher(Protocol):
    """Sees every step (``phases.interleaving``, ``phases.alone``)."""

    def step(self, task: asyncio.Task[Any] | None, now: float, handle: Handle) -> None:
        """The step of a task, or of a plain callback, begins, and the one before it has ended."""

    def deviation(self, others: Iterable[asyncio.Task[Any] | None]) -> None:
        """What comes now is not what asyncio would have done: it comes ahead of others."""

    def cancelled(self, task: asyncio.Task[Any], now: float) -> None:
        """A user is cancelled."""


class Conductor:
    """One run.

    Args:
        strategy: decides while users play; before and after that everything goes as asyncio has it.
        most_steps: who needs more goes on for ever.
        cancels: how many users may be cancelled.
        watcher: sees every step.
        fair_after: so many steps may be in any order; then everything goes as asyncio has it, for some ask again and
            again whether others have got on, and in no other order would these ever. None is as many as ``most_steps``.

    Attributes:
        strategy: see above.
        values: what was decided.
        options: among how many it was decided, each time.
        steps: how many steps were made.
        most_steps: see above.
        limit: at this step something happens, whether or not there is somebody to tell of it.
        was_unfair: the order was such that it had to be left.
        hurries: it has been left, and time passes though somebody is always ready.
        external: how many events came from outside the loop: from threads and sockets.
        cancelled: whose tasks were cancelled.
        watcher: sees every step.
        is_over: the run has come to its end, or to a stop; what happens now only cleans up.
        decides: the strategy is asked.
        may_cancel: the strategy is asked, before each step, whether somebody is to be cancelled.
        alert_from: each step after so many is to be told with ``before``.
        order: what counts as no deviation now.
        looks: the strategy wants to know who the options are, and not only how many.
        lag: for how long the machine does something else now; asked where somebody peeks.
        peek: is told what was chosen while all that is ready is still there.
    """

    def __init__(
        self,
        strategy: Strategy,
        most_steps: int,
        cancels: int = 1,
        watcher: Watcher | None = None,
        fair_after: int | None = None,
    ) -> None:
        self.values: list[int] = []
        self.options = Options()
        self.steps = 0
        self.most_steps = most_steps
        self._fair_after = most_steps if fair_after is None else fair_after
        self.limit = self._fair_after
        self.was_unfair = self.hurries = False
        self.external = 0
        self.cancelled: set[asyncio.Task[Any]] = set()
        self.watcher = watcher
        self.is_over = False
        self.decides = False
        self.may_cancel = False
        self.alert_from = self.limit if watcher is None else -1
        self.order = FIFO
        self.looks = strategy.looks
        self.lag = strategy.lag
        self.peek: Callable[[Any, Any], None] | None = strategy.peek if strategy.peeks else None
        self.strategy = strategy
        self._cancels = cancels
        self._victims: list[asyncio.Task[Any]] = []

    def decide(self) -> None:
        """Let the strategy decide from now on."""
        self.decides, self.order = True, self.strategy.order
        self._be_alert()

    def end_deciding(self) -> None:
        """Let everything go as asyncio has it again, for as many steps as are fair."""
        self.hurries, self.limit = False, self.steps + self._fair_after
        self.freeze()

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Let the strategy decide in this block."""
        self.decide()
        try:
            yield
        finally:
            self.end_deciding()

    def freeze(self) -> None:
        """From now on everything goes as asyncio has it, and nothing is written down."""
        self.decides, self.order = False, FIFO
        self._be_alert()

    def finish(self) -> None:
        """The run is over: nobody watches any more, and to clean up there are as many steps again."""
        self.is_over, self.watcher, self.limit = True, None, self.steps + self.most_steps
        self.freeze()

    def dismiss(self) -> None:
        """Nothing of the run is needed any more but what was decided."""
        self.cancelled.clear()

    def expose(self, task: asyncio.Task[Any]) -> None:
        """From now on the strategy may cancel a task."""
        self._victims.append(task)
        if self.decides:
            self._be_alert()

    def spare(self, task: asyncio.Task[Any]) -> None:
        """The strategy may cancel it no more."""
        self._victims.remove(task)
        if self.decides:
            self._be_alert()

    def pick(self, keys: Sequence[int]) -> int:
        """Which of several runs next."""
        value = self.strategy.pick(keys)
        self.values.append(value)
        self.options.append(len(keys))
        return value

    def before(self, task: asyncio.Task[Any] | None, now: Callable[[], float], handle: Handle) -> None:
        """A step is about to be made.

        Args:
            task: whose; None for a plain callback.
            now: virtual time.
            handle: what is called.

        Raises:
            Stuck: there were too many.
        """
        if self.steps > self.limit:
            self._leave_order()
        if self.may_cancel:
            count = len(self._victims)
            value = self.strategy.cancel(count)
            self.values.append(value)
            self.options.append(count + 1)
            if value:
                self._cancel(self._victims[value - 1], now())
        if self.watcher is not None:
            self.watcher.step(task, now(), handle)

    def _leave_order(self) -> None:
        if self.hurries or self.is_over:
            raise Stuck(f"it went on for more than {self.steps - 1:,} steps")
        self.was_unfair = self.hurries = True
        self.limit = self.steps + self.most_steps
        self.freeze()

    def _be_alert(self) -> None:
        self.may_cancel = self.decides and bool(self._victims) and len(self.cancelled) < self._cancels
        self.alert_from = -1 if self.may_cancel or self.watcher is not None or self.hurries else self.limit

    def _cancel(self, task: asyncio.Task[Any], now: float) -> None:
        self.cancelled.add(task)
        self.options.steps.append(-2 - self._victims.index(task))
        self._be_alert()
        if self.watcher is not None:
            self.watcher.cancelled(task, now)
        task.cancel()
