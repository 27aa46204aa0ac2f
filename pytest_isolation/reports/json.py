"""Results for machines: the JSON report (``schema/report-1.json``), and the way from a worker to its controller."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any

from pytest_isolation.model import Confidence, Finding, Kind, PhaseCount, Result
from pytest_isolation.verdicts import (
    Allocation,
    Arrivals,
    Attribution,
    Budget,
    Cause,
    Comparison,
    Estimate,
    Held,
    Interval,
    MachineTime,
    MemoryVerdict,
    Outcome,
    Verdict,
)

VERSION = 1


def encode(result: Result) -> dict[str, Any]:
    """A result as plain JSON; an infinite end of an interval is null."""
    encoded: dict[str, Any] = _finite(dataclasses.asdict(result))
    return encoded


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, Interval):
        return {"low": _finite(value.low), "high": _finite(value.high)}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, StrEnum):  # execnet carries plain texts only
        return value.value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return None if isinstance(value, float) and not isfinite(value) else value


def decode(encoded: Mapping[str, Any]) -> Result:
    """The way back from ``encode``."""
    return Result(
        **{
            **encoded,
            "verdicts": tuple(map(_verdict, encoded["verdicts"])),
            "findings": tuple(map(_finding, encoded["findings"])),
            "phases": tuple(PhaseCount(**phase) for phase in encoded["phases"]),
            "notes": tuple(encoded["notes"]),
            "comparisons": tuple(map(_comparison, encoded["comparisons"])),
            "memory": tuple(map(_memory, encoded["memory"])),
        }
    )


def _finding(encoded: Mapping[str, Any]) -> Finding:
    return Finding(**{**encoded, "kind": Kind(encoded["kind"]), "confidence": Confidence(encoded["confidence"])})


def _comparison(encoded: Mapping[str, Any]) -> Comparison:
    outcome, interval = Outcome(encoded["outcome"]), _interval(encoded["interval"])
    return Comparison(**{**encoded, "outcome": outcome, "interval": interval})


def _memory(encoded: Mapping[str, Any]) -> MemoryVerdict:
    what, outcome = Held(encoded["what"]), Outcome(encoded["outcome"])
    lines = tuple(Allocation(**line) for line in encoded["lines"])
    return MemoryVerdict(**{**encoded, "what": what, "outcome": outcome, "lines": lines})


def _verdict(encoded: Mapping[str, Any]) -> Verdict:
    return Verdict(
        **{
            **encoded,
            "budget": Budget(**encoded["budget"]),
            "outcome": Outcome(encoded["outcome"]),
            "estimates": tuple(map(_estimate, encoded["estimates"])),
            "machine": _machine(encoded["machine"]),
            "arrivals": encoded["arrivals"] and Arrivals(**encoded["arrivals"]),
            "cause": encoded["cause"] and _attribution(encoded["cause"]),
        }
    )


def _attribution(encoded: Mapping[str, Any]) -> Attribution:
    causes = tuple(Cause(**cause) for cause in encoded["causes"])
    return Attribution(**{**encoded, "causes": causes, "notes": tuple(encoded["notes"])})


def _machine(encoded: Mapping[str, Any] | None) -> MachineTime | None:
    if encoded is None:
        return None
    estimate = encoded["estimate"]
    return MachineTime(**{**encoded, "estimate": None if estimate is None else _estimate(estimate)})


def _estimate(encoded: Mapping[str, Any]) -> Estimate:
    return Estimate(encoded["quantile"], encoded["value_s"], _interval(encoded["interval"]))


def _interval(encoded: Mapping[str, Any]) -> Interval:
    low, high = encoded["low"], encoded["high"]
    return Interval(float("-inf") if low is None else low, float("inf") if high is None else high)


def report(results: Iterable[Result], seed: int) -> dict[str, Any]:
    """The whole report of a session."""
    return {
        "version": VERSION,
        "seed": seed,
        "environment": environment(),
        "results": [encode(result) for result in results],
    }


def environment() -> dict[str, Any]:
    """What the results were made on; a verdict means little without it."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in ("pytest-isolation", "pytest", "anyio")},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(path: Path, results: Iterable[Result], seed: int) -> None:
    """Write the report; folders on the way are made.

    Raises:
        OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report(results, seed), indent=2) + "\n", encoding="utf-8")
