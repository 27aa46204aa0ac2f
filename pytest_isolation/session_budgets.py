"""Budgets of a whole session, on spans wherever they were entered: written in the ini file, judged at the end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from pytest_isolation.errors import SettingError
from pytest_isolation.latency.decide import Rule
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.model import Result
from pytest_isolation.verdicts import Budget

NODEID = "isolation_budgets"
FORM = 'isolation_budgets = ["agent.create p95 < 10ms, p99 < 20ms"]'
# There is no second run of a session that could confirm a failure.
RULE = Rule(confirms=False)
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_BOUND = re.compile(
    r"(?P<name>p(?P<percent>[1-9]\d?(?:\.\d+)?)|max)\s*<=?\s*(?P<limit>\d+(?:\.\d+)?)\s*(?P<unit>ms|us|µs|s)"
)


def read_budgets(lines: Iterable[str]) -> tuple[Budget, ...]:
    """The budgets of the ini file.

    Args:
        lines: each a span and its bounds, ``agent.create p95 < 10ms, p99 < 20ms``.

    Raises:
        SettingError: it names the line, what is wrong with it, and the right form.
    """
    budgets: dict[tuple[str | None, float], Budget] = {}
    for line in lines:
        for budget in _read_line(line):
            if budgets.setdefault((budget.span, budget.quantile), budget) is not budget:
                raise SettingError(f"isolation_budgets: {budget.span!r} has two budgets on {budget.name}; keep one")
    return tuple(budgets.values())


def _read_line(line: str) -> Iterable[Budget]:
    span, _, bounds = line.strip().partition(" ")
    if not bounds.strip():
        raise SettingError(f"isolation_budgets: {line!r} says no more than a span; the form is {FORM}")
    for text in bounds.split(","):
        match = _BOUND.fullmatch(text.strip())
        if match is None or not float(match["limit"]):
            raise SettingError(f"isolation_budgets: {text.strip()!r} in {line!r} is no budget; the form is {FORM}")
        quantile = 1.0 if match["name"] == "max" else float(match["percent"]) / 100
        yield Budget(quantile, float(match["limit"]) * _UNITS[match["unit"]], span)


class Session:
    """Collects the spans of all tests, and judges them at the end.

    Args:
        budgets: what they are judged by.
        workers: how many processes share the machine, as far as this one knows.
    """

    def __init__(self, budgets: Sequence[Budget], workers: int = 1) -> None:
        self._workers = workers
        self._spans = {budget.span for budget in budgets}
        self._ledger = Ledger(budgets, RULE)
        self._seconds = 0.0

    def measured(self, ledger: Ledger, seconds: float) -> dict[str, Any]:
        """What a test measured of the spans that are judged, in plain values: it may be on its way from a worker.

        Args:
            ledger: the test's.
            seconds: how long the test was sampled.
        """
        spans = {name: [ledger.samples[name], ledger.machine_of(name)] for name in ledger.entered & self._spans}
        return {"seconds": seconds, "workers": self._workers, "spans": spans}

    def add(self, measured: Mapping[str, Any]) -> None:
        """Take what a test has measured."""
        for name, (samples, machine) in measured["spans"].items():
            for seconds, machine_s in zip(samples, machine or repeat(None), strict=False):
                self._ledger.add(seconds, name, machine_s)
        self._seconds += measured["seconds"]
        self._workers = max(self._workers, measured["workers"])

    @property
    def result(self) -> Result:
        """What all tests together prove."""
        ledger = self._ledger
        verdicts = (
            gate.verdict(
                ledger.samples[gate.budget.span],
                self._seconds,
                None if gate.budget.span in ledger.untold else ledger.machine[gate.budget.span],
            )
            for gate in ledger.gates
        )
        return Result(NODEID, "pytest --isolation-budget", tuple(verdicts), workers=self._workers)
