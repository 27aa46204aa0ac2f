"""An old and a new version in turn on this machine, alone and beside neighbours: what is called slower, and how soon."""

import os
import statistics
import subprocess
import sys
import textwrap

import pytest
from loads import Unit, work

from pytest_isolation.latency.comparing import compare_sync
from pytest_isolation.latency.noise import MachineClock
from pytest_isolation.latency.paired import Pairs
from pytest_isolation.latency.sampler import Limits
from pytest_isolation.verdicts import Outcome

TRIALS = int(os.environ.get("ISOLATION_COMPARISONS", "60"))
REVISIONS = TRIALS // 6


@pytest.fixture(params=["alone", "beside neighbours"])
def machine(request):
    if request.param != "alone":
        request.getfixturevalue("neighbours")
    return request.param


def comparisons(factor: float, clock: MachineClock, unit: Unit):
    """So many, of an operation of half a millisecond and one that does this many times its work."""
    done = []
    for _ in range(TRIALS):
        amount, pairs = round(0.0005 / unit.measure()), Pairs(0.05)
        more = round(amount * factor)
        compare_sync(lambda n=amount: work(n), lambda n=more: work(n), pairs, Limits(10.0, 400), clock)
        done.append(pairs.comparison("new"))
    return done


@pytest.mark.parametrize("slower", [0, 5])
def test_what_is_within_the_tolerance_is_never_called_slower(benchmark, figure, machine, clock, unit, slower):
    done = benchmark.pedantic(comparisons, args=[1 + slower / 100, clock, unit], rounds=1)
    failed = sum(one.outcome is Outcome.FAIL for one in done)
    figure(f"called slower at +{slower} %, tolerance 5 %, {machine}", failed, "", most=0, details=f"of {len(done)}")


def test_ten_percent_are_found(benchmark, figure, machine, clock, unit):
    done = benchmark.pedantic(comparisons, args=[1.1, clock, unit], rounds=1)
    found = sum(one.outcome is Outcome.FAIL for one in done)
    figure(f"found at +10 %, {machine}", 100 * found / len(done), "%", least=100, details=f"of {len(done)}")
    figure(f"median pairs at +10 %, {machine}", statistics.median(one.pairs for one in done), "", most=40)


@pytest.mark.parametrize("slower, aim", [(0, {"most": 0}), (25, {"least": 100})])
def test_two_revisions(benchmark, figure, machine, tmp_path, slower, aim):
    """Each in a process of its own, which may have its memory laid out worse for as long as it lives."""

    def judged() -> int:
        return sum(_session(tmp_path / str(number), slower) for number in range(REVISIONS))

    called = benchmark.pedantic(judged, rounds=1)
    figure(
        f"revisions called slower at +{slower} %, tolerance 10 %, {machine}",
        100 * called / REVISIONS,
        "%",
        **aim,
        details=f"of {REVISIONS}",
    )


def _session(folder, slower: int) -> bool:
    def write(amount: int) -> None:
        (folder / "shop.py").write_text(
            "def work():\n    table = {}\n"
            f"    for number in range({amount}):\n        table[number & 63] = (number, str(number))\n"
        )

    folder.mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(
        textwrap.dedent("""
            import pytest, shop

            @pytest.mark.latency(p95_ms=500)
            def test_it():
                shop.work()
        """)
    )
    write(4000)
    who = ("-c", "user.name=A", "-c", "user.email=a@example")
    for words in (("init", "--quiet"), ("add", "--all"), (*who, "commit", "--quiet", "--message", "old")):
        subprocess.run(("git", *words), cwd=folder, check=True)
    write(4000 * (100 + slower) // 100)
    command = (sys.executable, "-m", "pytest", "-q", "--isolation-compare-rev=HEAD", "--isolation-max-seconds=3")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "1 comparison" in done.stdout or "SLOWER" in done.stdout, done.stdout + done.stderr
    return "\nSLOWER" in done.stdout
