"""Beside other tools that explore orders of tasks, on the same corpus: faults found, runs needed, time of a run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from environments import environment
from exploration.corpus import CONTROLS, FAULTS

HERE, TESTS = Path(__file__).parent, Path(__file__).parents[2] / "tests"
PATIENCE_S = 60.0
# In an environment of their own: one of them is a plugin of pytest.
PEERS = ("detangle==0.1.0", "frontrun==0.7.0")


@pytest.fixture(scope="module")
def python():
    """With the other tools."""
    return environment("peers-of-exploration", PEERS)


def answer(python: Path, *command: str) -> dict[str, object]:
    """What a program beside this one says at its end."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = (str(python), str(HERE / command[0]), *command[1:])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr
    return json.loads(lines[-1])


def mine(name: str, *runs: str) -> dict[str, object]:
    """What we say of a case."""
    return answer(Path(sys.executable), "ours.py", name, *runs)


def peer(python: Path, tool: str, name: str, *lent: str) -> dict[str, object]:
    """What another tool says of a case; one that does not come to an end has found nothing."""
    try:
        return answer(python, "peers.py", tool, name, *lent)
    except subprocess.TimeoutExpired:
        return {"found": False, "seconds": PATIENCE_S}


def found_by(python: Path, tool: str, cases, lent) -> tuple[set[str], float]:
    """The cases in which another tool finds something, and how long it took for all."""
    answers = {name: peer(python, tool, name, *lent) for name in cases}
    return {name for name, answer in answers.items() if answer["found"]}, sum(
        float(answer["seconds"]) for answer in answers.values()
    )


def test_faults_found(benchmark, figure, python):
    """All of them, and more than anybody else finds by itself; what others find who are lent our judgement is told."""
    ours, runs = set(), []
    seconds = 0.0
    for name in FAULTS:
        done = mine(name)
        seconds += float(done["seconds"])
        if done["found"]:
            ours.add(name)
            runs.append(done["runs"])
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
    ours = {name for name in CONTROLS if mine(name)["found"]}
    figure("correct backends that we call faulty", len(ours), "", most=0, details=f"of {len(CONTROLS)}")
    theirs, _ = benchmark.pedantic(found_by, (python, "detangle", CONTROLS, ("lent",)), rounds=1)
    figure(
        "correct backends that detangle calls faulty, lent our judgement", len(theirs), "", details=", ".join(theirs)
    )


@pytest.mark.parametrize("rounds", [3])
def test_time_of_a_run(benchmark, figure, python, rounds):
    """On correct backends, where nothing ends early; side by side, in turn, and so many runs that beginnings vanish.

    A run of ours may cancel somebody and is judged, and so is the run of the other tool that it is compared with. Some
    of our schedules are played again, with other secrets: these plays are runs, too. Without either, as told beside it,
    the ratio is that of what a schedule costs in all to a run of the other tool that can find less.
    """
    ratios = {name: [] for name in ("a run", "a schedule", "a schedule, bare")}
    for name in CONTROLS:
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(mine(name, "2000"))
            theirs.append(peer(python, "speed-of-detangle", name))
        run_s, schedule_s = (
            statistics.median(float(done["seconds"]) / float(done[count]) for done in ours)
            for count in ("plays", "runs")
        )
        bare_s, whole_s = (statistics.median(float(one[kind]) for one in theirs) for kind in ("bare_s", "cancelling_s"))
        ratios["a run"].append((run_s / whole_s, run_s, whole_s))
        ratios["a schedule"].append((schedule_s / whole_s, schedule_s, whole_s))
        ratios["a schedule, bare"].append((schedule_s / bare_s, schedule_s, bare_s))
    what = {
        "a run": ("time of a run / detangle's, both with cancellations and judged", {"most": 1}),
        "a schedule": ("time of a schedule with all that is played again for it / a run of detangle's", {}),
        "a schedule, bare": ("the same / a run of detangle's without cancellations", {}),
    }
    for kind, (title, aims) in what.items():
        ratio, ours_s, theirs_s = (statistics.median(column) for column in zip(*ratios[kind], strict=True))
        details = f"medians {ours_s * 1e3:.2f} / {theirs_s * 1e3:.2f} ms; {len(CONTROLS)} controls"
        figure(title, ratio, "×", details=details, **aims)
    benchmark.pedantic(lambda: None, rounds=1)
