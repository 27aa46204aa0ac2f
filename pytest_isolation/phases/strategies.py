"""Which decision comes next when the order of tasks is ours: systematic search, random ones, and replay.

A decision is an int among several options; 0 is always what asyncio would have done. So a whole run is a list of ints,
and the number of them that are not 0 is the number of its deviations. Nothing here knows what is decided about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from itertools import cycle, islice
from random import Random
from typing import Any

FIFO, STICKY = "fifo", "sticky"
ORDERS = (FIFO, STICKY)
"""Two ways of going on by default: whoever has waited longest, or whoever ran last for as long as it can."""

# So many decisions are taken for granted before a run has shown how many there are; more than so many are not spread.
_GUESS, _MOST = 40, 4000

Deviations = tuple[tuple[int, int], ...]
Attempts = Generator["Strategy", Sequence[int], None]


class Options(list[int]):
    """How many options each decision of a run had.

    Attributes:
        steps: whose turn it was, step by step, and what else was decided: the same for two runs of the same steps,
            whichever decisions led to them.
    """

    def __init__(self, options: Sequence[int] = (), steps: Sequence[int] = ()) -> None:
        super().__init__(options)
        self.steps = [*steps]


class Strategy:
    """Takes the decisions of one run.

    Attributes:
        order: what counts as no deviation.
        looks: it reads the keys of its options, and not only their number; the list of them takes time to make.
        peeks: it wants to see what was chosen.
    """

    order: str = FIFO
    looks: bool = False
    peeks: bool = False

    def meet(self, keys: Iterable[int]) -> None:
        """Who is there now; told before any of them is among the options."""

    def pick(self, keys: Sequence[int]) -> int:
        """Which one runs next, as an index; the first is the default, and a key is the same task all the time."""
        return 0

    def cancel(self, victims: int) -> int:
        """Who is cancelled now: 0 is nobody, n the n-th."""
        return 0

    def lag(self) -> float:
        """For how long the machine does something else now; asked of who peeks."""
        return 0.0

    def peek(self, ready: Any, lane: Any) -> None:
        """What was chosen, while all that is ready is still there (``phases.lanes``)."""


class Replay(Strategy):
    """Takes decisions from a list; after its end it does what asyncio would.

    Args:
        values: the decisions; one that is too large for its options is the last option.
        order: what counts as no deviation.

    Attributes:
        order: see above.
        values: see above.
        clamped: so many decisions were too large for their options.
    """

    def __init__(self, values: Sequence[int] = (), order: str = FIFO) -> None:
        self.order = order
        self.clamped = 0
        self.values = values
        self._at = 0
        self._end = len(values)

    @property
    def unused(self) -> int:
        """So many deviations were never asked for."""
        return sum(map(bool, self.values[self._at :]))

    def pick(self, keys: Sequence[int]) -> int:
        """The next of the list."""
        return self._next(len(keys) - 1) if self._at < self._end else 0

    def cancel(self, victims: int) -> int:
        """The next of the list."""
        return self._next(victims) if self._at < self._end else 0

    def _next(self, most: int) -> int:
        value = self.values[self._at]
        self._at += 1
        if value > most:
            self.clamped += 1
            return most
        return value


class Systematic:
    """All runs with few deviations, the fewest first, in each order.

    Args:
        deviations: how many at the most.
        orders: what counts as no deviation, one after the other.

    Attributes:
        level: so many deviations are exhausted; -1 before all runs without any have been made.
        runs: how many were made.
        exhausted: how many of them belong to exhausted levels.
        known: from so many runs the search did not go on, because another one had made the same steps.
        is_all: no run has a decision in which it could still deviate.
    """

    def __init__(self, deviations: int, orders: Sequence[str] = ORDERS) -> None:
        self.level = -1
        self.runs = self.exhausted = self.known = 0
        self.is_all = False
        self._deviations = deviations
        self._orders = orders

    def attempts(self) -> Attempts:
        """Hands out strategies, and is sent how many options each decision of the run had."""
        frontiers: dict[str, list[Deviations]] = {order: [()] for order in self._orders}
        seen: set[int] = set()
        for level in range(self._deviations + 1):
            for order, frontier in frontiers.items():
                further: list[Deviations] = []
                for deviations in frontier:
                    options = yield Replay(dense(deviations), order)
                    self.runs += 1
                    if level < self._deviations and not self._is_known(options, seen, level):
                        further += _one_more(deviations, options)
                frontiers[order] = further
            self.level, self.exhausted = level, self.runs
            if not any(frontiers.values()):  # there are no decisions that are left: this was all
                self.level, self.is_all = self._deviations, level < self._deviations
                return

    def _is_known(self, options: Sequence[int], seen: set[int], level: int) -> bool:
        """Another run has made the same steps; those without any deviation are gone on from in each order."""
        if not isinstance(options, Options) or not options.steps:
            return False
        steps = hash(tuple(options.steps))
        is_known = level > 0 and steps in seen
        seen.add(steps)
        self.known += is_known
        return is_known


def _one_more(deviations: Deviations, options: Sequence[int]) -> Iterator[Deviations]:
    first = deviations[-1][0] + 1 if deviations else 0
    for position in range(first, len(options)):
        for value in range(1, options[position]):
            yield (*deviations, (position, value))


def dense(deviations: Deviations) -> list[int]:
    """A list of decisions from its deviations, each with its place."""
    values = [0] * (deviations[-1][0] + 1 if deviations else 0)
    for position, value in deviations:
        values[position] = value
    return values


def sparse(values: Sequence[int]) -> Deviations:
    """The deviations of a list of decisions, each with its place."""
    return tuple((position, value) for position, value in enumerate(values) if value)


class Uniform(Strategy):
    """Any option with the same chance, and a cancellation at a random moment.

    Args:
        random: where chance comes from.
        length: how many decisions a run has, as far as is known.
        cancels: how many users are cancelled at the most.
    """

    def __init__(self, random: Random, length: int = _GUESS, cancels: int = 1) -> None:
        self._random = random
        self._moments = _moments(random, length, cancels)
        self._moment = 0

    def pick(self, keys: Sequence[int]) -> int:
        """Any."""
        return int(self._random.random() * len(keys))

    def cancel(self, victims: int) -> int:
        """Anybody, when the moment has come."""
        self._moment += 1
        return 1 + self._random.randrange(victims) if self._moment - 1 in self._moments else 0


def _moments(random: Random, length: int, count: int) -> Collection[int]:
    """So many of a run's decisions, each with the same chance."""
    if count == 1:  # mostly it is, and to draw a sample takes longer
        return (int(random.random() * length),)
    return set(random.sample(range(length), min(count, length)))


class Pct(Uniform):
    """Priorities that hardly change: who has the highest runs until it must wait (Burckhardt et al., 2010).

    A fault that takes ``depth`` orderings is met with a chance of at least 1 / (tasks × steps ** (depth - 1)).

    Args:
        random: where chance comes from.
        length: how many decisions a run has, as far as is known.
        cancels: how many users are cancelled at the most.
        depth: at so many moments less one whoever runs falls behind all others.
    """

    looks = True

    def __init__(self, random: Random, length: int = _GUESS, cancels: int = 1, depth: int = 2) -> None:
        super().__init__(random, length, cancels)
        self._known: set[int] = set()
        self._order: list[int] = []
        self._falls = {at + 1 for at in _moments(random, length, depth - 1)}
        self._picks = 0

    def meet(self, keys: Iterable[int]) -> None:
        """Give those that are new a place among the others, any with the same chance."""
        for key in keys:
            if key not in self._known:
                self._known.add(key)
                self._order.insert(int(self._random.random() * (len(self._order) + 1)), key)

    def pick(self, keys: Sequence[int]) -> int:
        """Who has the highest priority."""
        self._picks = picks = self._picks + 1
        order = self._order
        if picks in self._falls:
            order.append(order.pop(next(at for at, key in enumerate(order) if key in keys)))
        last = len(keys) - 1
        for key in order:  # mostly it is one of the first, who has just run and so is the last that became ready
            if key == keys[last]:
                return last
            if key in keys:
                return keys.index(key)
        return 0


class Pos(Uniform):
    """Partial order sampling: a priority for every step, drawn when the task is first met after its last one.

    Yuan, Yang and Gu, Partial order aware concurrency sampling (CAV 2018). Which steps touch the same is not known
    here, so only the step that was made gets another one; that spreads the chances over orders, not over decisions.
    """

    looks = True

    def __init__(self, random: Random, length: int = _GUESS, cancels: int = 1) -> None:
        super().__init__(random, length, cancels)
        self._priorities: dict[int, float] = {}

    def pick(self, keys: Sequence[int]) -> int:
        """The step with the highest priority; the next one of its task has another."""
        for key in keys:
            if key not in self._priorities:
                self._priorities[key] = self._random.random()
        first = max(keys, key=self._priorities.__getitem__)
        del self._priorities[first]
        return keys.index(first)


def mixed(seed: int, cancels: int = 1) -> Attempts:
    """Random runs of several kinds in turn, without end; it is sent how many options each decision had."""
    random, length = Random(seed), _GUESS
    kinds: Sequence[Callable[[int], Strategy]] = (
        lambda length: Pct(random, length, 0, depth=2),
        lambda length: Pct(random, length, cancels, depth=1),
        lambda length: Uniform(random, length, cancels),
        lambda length: Pct(random, length, cancels, depth=3),
        lambda length: Pos(random, length, cancels),
        lambda length: Pct(random, length, cancels, depth=2),
    )
    for make in cycle(kinds):
        options = yield make(length)
        length = max(2, min(_MOST, len(options)))


def steered(attempts: Attempts, most: int | None) -> Iterator[tuple[Strategy, Callable[[Sequence[int]], None]]]:
    """Strategies one after another; each is followed by the options that its run had, told to the second part."""
    options: list[Sequence[int]] = []
    strategies: Iterable[Strategy] = _driven(attempts, options)
    for strategy in islice(strategies, most):
        yield strategy, options.append


def _driven(attempts: Attempts, options: list[Sequence[int]]) -> Iterator[Strategy]:
    strategy = next(attempts)
    while True:
        yield strategy
        try:
            strategy = attempts.send(options.pop())
        except StopIteration:
            return
