"""What it costs to have the order of steps in hand: of each step, beside asyncio's own loop."""

import asyncio
import random
import time

import pytest
from side_by_side import interleaved

from pytest_isolation.phases.conductor import Conductor
from pytest_isolation.phases.exploration import clean_up
from pytest_isolation.phases.loop import ControlledLoop
from pytest_isolation.phases.strategies import STICKY, Pct, Replay, Uniform

STEPS = 10_000
STRATEGIES = {
    "fifo": Replay,
    "sticky": lambda: Replay((), STICKY),
    "random": lambda: Uniform(random.Random(1), cancels=0),
    "PCT": lambda: Pct(random.Random(1), cancels=0),
}


def program(tasks):
    """So many tasks that do nothing but take turns."""

    async def one():
        for _ in range(STEPS // tasks):
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(one() for _ in range(tasks)))

    return main


def on_processor(run):
    """Seconds of this process alone: the machine has other work."""
    start = time.process_time()
    run()
    return time.process_time() - start


def stock(main):
    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def ours(main, strategy):
    conductor = Conductor(strategy, 10**9)
    loop = ControlledLoop(conductor)

    async def decided():
        with conductor.deciding():
            await main()

    try:
        loop.run_until_complete(decided())
    finally:
        clean_up(loop, conductor)


@pytest.mark.parametrize("tasks", [1, 3, 10])
@pytest.mark.parametrize("kind", ["fifo", "sticky", "random", "PCT"])
def test_overhead_of_a_step(benchmark, figure, tasks, kind):
    """At most two and a half times asyncio's own."""
    main = program(tasks)
    mine, theirs, ratio = interleaved(
        lambda: on_processor(lambda: ours(main, STRATEGIES[kind]())), lambda: on_processor(lambda: stock(main)), 9
    )
    name = f"a step of {tasks} task{'s' * (tasks > 1)} in the {kind} order / on asyncio's loop"
    figure(name, ratio, "×", most=2.5, details=f"{mine / STEPS * 1e6:.2f} / {theirs / STEPS * 1e6:.2f} µs")
    benchmark.pedantic(ours, (main, STRATEGIES[kind]()), rounds=2)
