"""Beside other tools that explore orders of tasks, on the same corpus: faults found, runs needed, time of a run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path
from time import perf_counter

import pytest
from environments import environment
from exploration.corpus import CONTROLS, FAULTS

from pytest_isolation.exploring import Explorer, Search
from pytest_isolation.judge import Extensions, Judge
from pytest_isolation.phases.exploration import Stagecraft
from pytest_isolation.users.cast import Cast

HERE, TESTS = Path(__file__).parent, Path(__file__).parents[2] / "tests"
PATIENCE_S = 60.0
# In an environment of their own: one of them is a plugin of pytest.
PEERS = ("detangle==0.1.0", "frontrun==0.7.0")


@pytest.fixture(scope="module")
def python():
    """With the other tools."""
    return environment("peers-of-exploration", PEERS)


def peer(python: Path, tool: str, name: str, *lent: str) -> dict[str, object]:
    """What another tool says of a case; one that does not come to an end has found nothing."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [python, HERE / "peers.py", tool, name, *lent]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return {"found": False, "seconds": PATIENCE_S}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr
    return json.loads(lines[-1])


def found_by(python: Path, tool: str, cases, lent) -> tuple[set[str], float]:
    """The cases in which another tool finds something, and how long it took for all."""
    answers = {name: peer(python, tool, name, *lent) for name in cases}
    return {name for name, answer in answers.items() if answer["found"]}, sum(
        float(answer["seconds"]) for answer in answers.values()
    )


def explored(case, **options):
    """What we say: findings, how many runs were made, and how long they took."""

    async def scenario(user, backend):
        await case.scenario(backend, user)

    judge = Judge(Extensions())
    search = Search(Stagecraft(case.open, scenario), seconds=120.0, **options)
    explorer = Explorer(search, Cast(42, "benchmark"), judge, 42, require=lambda _: None)
    begun = perf_counter()
    explorer.explore()
    return judge.findings, explorer.done.runs["exploration"] // search.users, perf_counter() - begun


def test_faults_found(benchmark, figure, python):
    """All of them, and more than anybody else finds by itself; what others find who are lent our judgement is told."""
    ours, runs = set(), []
    begun = perf_counter()
    for name, case in FAULTS.items():
        findings, count, _ = explored(case)
        if findings:
            ours.add(name)
            runs.append(count)
    seconds = perf_counter() - begun
    figure("faults of the corpus that we find", len(ours), "", least=len(FAULTS), details=f"{seconds:.0f} s in all")
    figure("runs until a finding is there, shortened and replayed: median", statistics.median(runs), "")
    for tool in ("detangle", "frontrun"):
        for lent in ((), ("lent",)):
            theirs, seconds = found_by(python, tool, FAULTS, lent)
            by, aims = (", lent our judgement", {}) if lent else ("", {"least": 1.5})
            details = f"{len(theirs)} of {len(FAULTS)}, {seconds:.0f} s in all"
            figure(f"faults that we find / {tool}{by}", len(ours) / max(1, len(theirs)), "×", details=details, **aims)
            figure(f"faults that {tool} finds{by}, and we do not", len(theirs - ours), "", most=0)
    benchmark.pedantic(lambda: None, rounds=1)


def test_false_alarms(benchmark, figure, python):
    """What a user's own tasks do among themselves is nobody else's doing; to see that takes more than a comparison."""
    ours = {name for name, case in CONTROLS.items() if explored(case)[0]}
    figure("correct backends that we call faulty", len(ours), "", most=0, details=f"of {len(CONTROLS)}")
    theirs, _ = benchmark.pedantic(found_by, (python, "detangle", CONTROLS, ("lent",)), rounds=1)
    figure(
        "correct backends that detangle calls faulty, lent our judgement", len(theirs), "", details=", ".join(theirs)
    )


@pytest.mark.parametrize("rounds", [3])
def test_time_of_a_run(benchmark, figure, python, rounds):
    """On correct backends, where nothing ends early; side by side, in turn."""
    ratios, ours_s, theirs_s = [], [], []
    for name, case in CONTROLS.items():
        mine, theirs = [], []
        for _ in range(rounds):
            _, runs, seconds = explored(case, random_runs=500)
            mine.append(seconds / runs)
            theirs.append(float(peer(python, "detangle-speed", name)["run_s"]))
        ours_s.append(statistics.median(mine))
        theirs_s.append(statistics.median(theirs))
        ratios.append(ours_s[-1] / theirs_s[-1])
    details = (
        f"{statistics.median(ours_s) * 1e3:.2f} / {statistics.median(theirs_s) * 1e3:.2f} ms; {len(ratios)} controls"
    )
    figure(
        "time of a run, with users who come after and all oracles / detangle",
        statistics.median(ratios),
        "×",
        most=1,
        details=details,
    )
    benchmark.pedantic(lambda: None, rounds=1)
