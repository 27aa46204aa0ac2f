"""Two things measured in turn, so that whatever the machine does it does to both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable


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
