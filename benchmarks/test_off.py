"""What a session without a marked test pays."""

import os
import statistics
import subprocess
import sys

import pytest
from side_by_side import interleaved, timed

ALONE = (
    "-p",
    "no:cacheprovider",
    "-p",
    "no:benchmark",
    "-p",
    "no:hypothesispytest",
    "-p",
    "no:xdist",
    "-p",
    "no:asyncio",
)


def pytest_run(folder, *options):
    command = [sys.executable, "-m", "pytest", "-q", *ALONE, *options]

    # As everywhere but in some containers: what was compiled once is kept.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run():
        return timed(
            lambda: subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        )

    return run


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "test_it.py").write_text("".join(f"def test_{i}(): pass\n" for i in range(3000)))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def test_3000_empty_tests(benchmark, figure, folder):
    """With the plugin and without it."""
    with_it, without = pytest_run(folder), pytest_run(folder, "-p", "no:pytest_isolation.plugin")
    mine, theirs, ratio = interleaved(with_it, without, 21)
    figure("3,000 empty tests with the plugin / without", ratio, "×", most=1.02, details=f"{mine:.2f} / {theirs:.2f} s")
    benchmark.pedantic(with_it, rounds=1)


def test_import(benchmark, figure, folder):
    """What the plugin adds to `pytest --version`, which loads all plugins twice over when asked for it twice."""
    with_it = pytest_run(folder, "--version", "--version")
    without = pytest_run(folder, "-p", "no:pytest_isolation.plugin", "--version", "--version")
    mine, theirs = [], []
    for turn in range(41):
        for run in (with_it, without) if turn % 2 else (without, with_it):
            (mine if run is with_it else theirs).append(run())
    added = statistics.median(mine) - statistics.median(theirs)
    figure("the plugin's import", added * 1e3, "ms", most=15, details=f"of {statistics.median(theirs) * 1e3:.0f} ms")
    benchmark.pedantic(with_it, rounds=1)
