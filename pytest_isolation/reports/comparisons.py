"""Comparisons as text: of a version with the one before, and of today's samples with the stored ones."""

from __future__ import annotations

from pytest_isolation.reports.figures import bounds, duration, percent
from pytest_isolation.verdicts import Comparison, Outcome, Regression


def comparison_text(comparison: Comparison) -> str:
    """One comparison with its evidence, in two lines."""
    headline, interval = comparison_verdict(comparison)
    each = f" of the medians of {comparison.calls} calls" if comparison.calls > 1 else ""
    return (
        f"{headline}  {comparison.name} takes {comparison.ratio:.3g} times as long as before "
        f"(99 % interval {interval}), tolerance {percent(comparison.tolerance)}"
        f"\n  {comparison.reason}; {comparison.pairs} pairs{each}, in turn"
    )


def comparison_verdict(comparison: Comparison) -> tuple[str, str]:
    """The verdict in a word or two, and the interval of the ratio."""
    low, high = comparison.interval
    words = {Outcome.FAIL: "SLOWER", Outcome.PASS: "NO SLOWER", Outcome.UNDECIDED: "UNDECIDED"}
    return words[comparison.outcome], bounds(low, high)


def regression_text(regression: Regression) -> str:
    """What today's samples say beside the stored ones, in a line."""
    span = f" [{regression.span}]" if regression.span else ""
    what = "SLOWER than the baseline" if regression.slower else "beside the baseline"
    change = regression.new_s / regression.old_s if regression.old_s else float("inf")
    return (
        f"{regression.test}{span}: {what}: median {duration(regression.new_s)}, was {duration(regression.old_s)} "
        f"(×{change:.3g}, p = {regression.p:.2g}; {regression.new_samples} and {regression.old_samples} samples)"
    )
