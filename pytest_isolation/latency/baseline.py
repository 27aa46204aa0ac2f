"""Samples of an earlier session, kept in a file, and what today's say beside them.

Of all rules that judge against a stored run, the one that is least wrong asks twice: the ranks of the samples must
differ beyond chance (Mann & Whitney 1947, one-sided, p < 0.002), and the median by more than the tolerance. It cannot
know what else has changed since: the same work takes up to twice as long on the same machine on another day. Where it
must be known, compare both versions in one session (``latency.compare``).
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from math import erfc, isfinite, sqrt
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

from pytest_isolation.errors import SettingError
from pytest_isolation.verdicts import Regression

VERSION = 1
MOST_SAMPLES = 2000
TOLERANCE = 0.05
LEAST_P = 0.002
_LEAST = 40

Samples = Mapping[str, Mapping[str, Sequence[float]]]
"""Seconds by test and span; the body of a test is the span without a name."""


def identity() -> dict[str, Any]:
    """The machine, as far as a latency depends on it; its name only as a fingerprint."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "node": sha256(platform.node().encode()).hexdigest()[:12],
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def save(path: Path, samples: Samples) -> None:
    """Write a baseline; a file that is there is replaced at once, or not at all.

    What other tests have measured on this machine is kept, so that a part of the tests can be measured again.

    Args:
        path: of the file; folders on the way are made.
        samples: of every test that measured.

    Raises:
        OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = _kept(path) | {
        test: {span: list(seconds[:MOST_SAMPLES]) for span, seconds in spans.items()} for test, spans in samples.items()
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps({"version": VERSION, "machine": identity(), "samples": kept}) + "\n", "utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _kept(path: Path) -> dict[str, Any]:
    """What is already stored there, of the same machine."""
    try:
        machine, samples = load(path)
    except SettingError:
        return {}
    return dict(samples) if machine == identity() else {}


def load(path: Path) -> tuple[Mapping[str, Any], Samples]:
    """The machine and the samples of a baseline.

    Raises:
        SettingError: there is none, or it is damaged, or of another version: what is there, and how to make one.
    """
    name, make = path.stem, f"make one with --isolation-save={path.stem}"
    try:
        stored = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.json"))) or "none"
        raise SettingError(f"there is no baseline {name!r} ({path}; there are: {there}); {make}") from None
    except (OSError, ValueError) as error:
        raise SettingError(f"the baseline {name!r} cannot be read ({path}: {error}); {make}") from None
    if not isinstance(stored, dict) or stored.get("version") != VERSION:
        raise SettingError(f"the baseline {name!r} ({path}) is not of version {VERSION}; {make}")
    machine: Any = stored.get("machine")
    samples: Any = stored.get("samples")
    if not (isinstance(machine, dict) and _are_samples(samples)):
        raise SettingError(f"the baseline {name!r} ({path}) is damaged; {make}")
    return machine, samples


def _are_samples(stored: Any) -> bool:
    return isinstance(stored, dict) and all(
        isinstance(spans, dict)
        and all(isinstance(seconds, list) and seconds and all(map(_is_number, seconds)) for seconds in spans.values())
        for spans in stored.values()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def compare(old_s: Sequence[float], new_s: Sequence[float], test: str, span: str, same_machine: bool) -> Regression:
    """What today's samples say beside the stored ones.

    Args:
        old_s: stored.
        new_s: of today.
        test: which test.
        span: which part of it; empty is the body.
        same_machine: otherwise nothing can be proven.
    """
    old, new = median(old_s), median(new_s)
    p = rank_p(old_s, new_s)
    enough = min(len(old_s), len(new_s)) >= _LEAST
    slower = enough and same_machine and p < LEAST_P and new > (1 + TOLERANCE) * old
    return Regression(test, span, old, new, len(old_s), len(new_s), p, slower)


def rank_p(old: Sequence[float], new: Sequence[float]) -> float:
    """The chance of ranks like these if the new ones were no larger: Mann and Whitney's test, one-sided.

    By the normal approximation, with a correction for continuity; of equal values the ranks are averaged.

    Args:
        old: n ≥ 1.
        new: m ≥ 1.
    """
    n, m = len(old), len(new)
    ordered = sorted([(value, False) for value in old] + [(value, True) for value in new])
    ranks, before = 0.0, 0
    for _, group in groupby(ordered, key=itemgetter(0)):
        same = list(group)
        ranks += (before + (len(same) + 1) / 2) * sum(is_new for _, is_new in same)
        before += len(same)
    u = ranks - m * (m + 1) / 2
    z = (u - n * m / 2 - 0.5) / sqrt(n * m * (n + m + 1) / 12)
    return erfc(z / sqrt(2)) / 2
