"""Explores one backend of the corpus with us, in a process of its own as the other tools are: ``python ours.py CASE [RUNS]``."""

from __future__ import annotations

import json
import logging
import sys
from time import perf_counter

from exploration.corpus import CONTROLS, FAULTS

from pytest_isolation.exploring import Explorer, Search
from pytest_isolation.judge import Extensions, Judge
from pytest_isolation.phases.exploration import Stagecraft
from pytest_isolation.users.cast import Cast


def explored(case, **options) -> dict[str, float]:
    """What we say of a case: how much was found, in how many schedules and plays, and how long it took.

    Some schedules are played again, with other secrets or alone; a play of one who is alone is a part of one of all.
    """

    async def scenario(user, backend):
        await case.scenario(backend, user)

    judge = Judge(Extensions())
    search = Search(Stagecraft(case.open, scenario), seconds=120.0, **options)
    explorer = Explorer(search, Cast(42, "benchmark"), judge, 42, require=lambda _: None)
    begun = perf_counter()
    explorer.explore()
    seconds, made = perf_counter() - begun, explorer.done.runs
    plays = made["exploration"] + made["secrecy"] + made["own doing"]
    runs = made["exploration"] // search.users
    return {"found": len(judge.findings), "runs": runs, "plays": plays // search.users, "seconds": seconds}


if __name__ == "__main__":
    logging.disable()
    name, *runs = sys.argv[1:]
    case, options = (FAULTS | CONTROLS)[name], {"random_runs": int(runs[0])} if runs else {}
    if runs:
        explored(case, random_runs=10)  # what is done once is not counted
    sys.stdout.write(f"\n{json.dumps(explored(case, **options))}\n")
