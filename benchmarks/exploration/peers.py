"""Explores one backend of the corpus with another tool, in a process of its own: ``python peers.py TOOL CASE [lent]``.

The tools bring orders; what a fault is, their users say. By itself a run is a fault if somebody fails or never ends.
With ``lent`` the tools have what we judge by, too: whoever is not cancelled sees what it sees alone, with its own secrets
in the place of the other's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from time import perf_counter

from exploration.corpus import CONTROLS, FAULTS

USERS, RUNS, SECONDS = 3, 2000, 20.0


class Player:
    """A user, as far as the corpus needs one."""

    def __init__(self, index: int) -> None:
        self.index, self.id = index, f"user-{index}"
        self.anonymous = False
        self.seen: list[str] = []

    def secret(self, name: str = "secret") -> str:
        return f"{name}-of-user-{self.index}"

    def number(self, name: str = "number") -> int:
        return 1_000_000 + self.index

    def observe(self, value, channel="response"):
        self.seen.append(repr(value))
        return value

    def story(self) -> list[str]:
        """After names are changed."""
        mine = (f"user-{self.index}", "user-*"), (str(self.number()), "number")
        return [text.replace(*mine[0]).replace(*mine[1]) for text in self.seen]


def alone(case) -> list[list[str]]:
    """What a user sees who is alone, when it comes first and when it comes second."""

    async def main():
        backend, stories = case.open(), []
        for index in range(2):
            player = Player(index)
            await case.scenario(backend, player)
            stories.append(player.story())
        return stories

    return asyncio.run(main())


def with_detangle(case, runs: int, lent: bool, only_looks: bool = False, **options):
    import detangle

    stories = alone(case)

    def judge(player):
        seems_well = not lent or player.story() in stories
        assert seems_well or only_looks, player.seen

    async def main():
        backend, players = case.open(), [Player(index) for index in range(USERS)]
        tasks = [asyncio.ensure_future(case.scenario(backend, player)) for player in players]
        if options.get("cancel"):
            detangle.inject_cancellation(tasks[detangle.randint(0, USERS - 1)])
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for player, end in zip(players, ended, strict=True):
            if isinstance(end, asyncio.CancelledError):
                continue
            assert only_looks or not isinstance(end, BaseException), repr(end)
            judge(player)
        after = Player(USERS)
        await case.scenario(backend, after)
        judge(after)

    jitter = {"timer_jitter": 0.05} if options.get("cancel") else {}
    return detangle.explore(
        main, runs=runs, seed=1, database="", shrink=False, max_duration=SECONDS, fail_on_unobserved=False, **jitter
    )


def speed_of_detangle(case, cancel: bool) -> float:
    """Seconds of one run of many, each of which is judged and none is the last: bare, or with a cancellation."""
    with_detangle(case, 10, lent=True, only_looks=True, cancel=cancel)  # what is done once is not counted
    begun = perf_counter()
    with_detangle(case, RUNS, lent=True, only_looks=True, cancel=cancel)
    return (perf_counter() - begun) / RUNS


def found_by_detangle(case, lent: bool) -> bool:
    """With its defaults, and with cancellations and timers that vary."""
    from detangle import DetangleError

    for options in ({}, {"cancel": True}):
        try:
            with_detangle(case, RUNS, lent, **options)
        except (AssertionError, DetangleError):
            return True
    return False


def found_by_frontrun(case, lent: bool) -> bool:
    import frontrun

    stories = alone(case)

    class State:
        def __init__(self) -> None:
            self.backend, self.players = case.open(), [Player(index) for index in range(USERS)]

    def worker(index):
        async def work(state):
            await case.scenario(state.backend, state.players[index])

        return work

    async def main():
        return await frontrun.explore(
            setup=State,
            workers=[worker(index) for index in range(USERS)],
            invariant=lambda state: not lent or all(player.story() in stories for player in state.players),
            strategy="dpor",
            max_executions=RUNS,
            total_timeout=SECONDS,
            reproduce_on_failure=0,
            clock="virtual",
        )

    return asyncio.run(main()).property_holds is False


def main(tool: str, name: str, lent: str = "") -> None:
    logging.disable()
    case = (FAULTS | CONTROLS)[name]
    begun = perf_counter()
    if tool == "speed-of-detangle":
        answer = {"bare_s": speed_of_detangle(case, cancel=False), "cancelling_s": speed_of_detangle(case, cancel=True)}
    else:
        found = (found_by_detangle if tool == "detangle" else found_by_frontrun)(case, bool(lent))
        answer = {"found": found, "seconds": perf_counter() - begun}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
