"""Figures, each measured side by side with what it is compared with, and printed next to its aim."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Figure:
    """One line of the table at the end."""

    name: str
    value: float
    unit: str
    aim: str
    kept: bool
    details: str


FIGURES = pytest.StashKey[list[Figure]]()


def pytest_configure(config):
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section("figures")
    for figure in config.stash[FIGURES]:
        line = f"{figure.name:<62} {figure.value:>9.3g} {figure.unit:<5} aim {figure.aim:<10} {figure.details}"
        terminalreporter.line(line, green=figure.kept, red=not figure.kept)


@pytest.fixture
def figure(request, benchmark):
    """Takes down a figure, and shows it in pytest-benchmark's own table too."""

    def note(
        name: str, value: float, unit: str, most: float | None = None, least: float | None = None, details: str = ""
    ):
        aim, kept = (f"≤ {most:g}", value <= most) if most is not None else (f"≥ {least:g}", value >= least)
        request.config.stash[FIGURES].append(Figure(name, value, unit, aim, kept, details))
        benchmark.extra_info.update({"figure": value, "unit": unit, "aim": aim})

    return note


def interleaved(ours: Callable[[], float], peer: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Medians of both, and the median of their ratio round by round; the order turns (ABBA), so that drift cancels."""
    mine, theirs = [], []
    for turn in range(rounds):
        gc.collect()
        for run in (ours, peer) if turn % 2 else (peer, ours):
            (mine if run is ours else theirs).append(run())
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    return statistics.median(mine), statistics.median(theirs), statistics.median(ratios)


def timed(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
