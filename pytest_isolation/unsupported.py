"""Refuses budgets that no test of this session could prove: there will be too few samples, or too little time."""

from __future__ import annotations

from math import ceil

from pytest_isolation.errors import MarkerError
from pytest_isolation.latency.decide import least_to_pass
from pytest_isolation.markers import Plan
from pytest_isolation.settings import Settings
from pytest_isolation.verdicts import Budget


def refuse_unsupported(plan: Plan, settings: Settings) -> None:
    """Refuse a quantile that the limit of samples, or the time, can never prove.

    Raises:
        MarkerError: it names the number of samples that it takes.
    """
    for budget in plan.budgets:
        least = least_to_pass(budget.quantile)
        if least > settings.max_samples:
            raise MarkerError(
                f"latency: a budget on {budget.name} takes at least {least:,} samples, and at most "
                f"{settings.max_samples:,} are taken; run with --isolation-max-samples={least}, or judge a lower one"
            )
        # A span may be entered several times in a run. Without CI mode the time is short, and only a miss looked for.
        if settings.budget and budget.span is None and plan.users is None and plan.load.rate is not None:
            _refuse_too_few_arrivals(budget, plan.load.rate * (plan.load.users or 1), settings.sampling_seconds)


def _refuse_too_few_arrivals(budget: Budget, rate: float, seconds: float) -> None:
    least = least_to_pass(budget.quantile)
    if rate * seconds < least:
        raise MarkerError(
            f"latency: a budget on {budget.name} takes at least {least:,} samples, and {rate:g} arrivals a second "
            f"make {rate * seconds:.0f} in {seconds:g} s; run with --isolation-max-seconds={ceil(least / rate)}, "
            "or let more arrive"
        )
