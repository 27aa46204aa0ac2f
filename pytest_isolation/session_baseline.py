"""The baseline of a session: what tests measured is collected, compared with a stored one, and stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_isolation.latency import baseline
from pytest_isolation.model import Result
from pytest_isolation.reports.comparisons import regression_text
from pytest_isolation.reports.figures import quantity
from pytest_isolation.verdicts import Regression

NODEID = "isolation_compare"
FOLDER = ".isolation"


class Baseline:
    """What is stored, and what is to be.

    Args:
        root: the folder of the project.
        save: the name under which to store what this session measures; None stores nothing.
        compare: the name of what to compare with; None compares nothing.

    Raises:
        SettingError: there is no such baseline, or it cannot be read.
    """

    def __init__(self, root: Path, save: str | None, compare: str | None) -> None:
        self._folder = root / FOLDER
        self._save, self._compare = save, compare
        self._samples: dict[str, dict[str, list[float]]] = {}
        self._machine, self._stored = baseline.load(self._path(compare)) if compare else ({}, {})

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def add(self, test: str, measured: dict[str, list[float]]) -> None:
        """Take what a test has measured."""
        if measured:
            self._samples[test] = measured

    def store(self) -> str:
        """Write what was measured; what to say of it.

        Raises:
            OSError: it cannot be written.
        """
        if self._save is None:
            return ""
        if not self._samples:
            return f"nothing is stored as {self._save!r}: {_NOTHING}"
        path = self._path(self._save)
        baseline.save(path, self._samples)
        return f"the samples of {quantity(len(self._samples), 'test')} are stored in {path}"

    def regressions(self) -> Sequence[Regression]:
        """Every part of every test that was measured then and now."""
        same = self._machine == baseline.identity()
        return [
            baseline.compare(self._stored[test][span], seconds, test, span, same)
            for test, spans in self._samples.items()
            for span, seconds in spans.items()
            if span in self._stored.get(test, {})
        ]

    def result(self, regressions: Sequence[Regression]) -> Result | None:
        """What the comparison says, as a result that reports know; None if none was asked for."""
        if self._compare is None:
            return None
        new = [test for test in self._samples if test not in self._stored]
        notes = [regression_text(regression) for regression in regressions]
        if not self._samples:
            notes.append(f"nothing was compared with the baseline {self._compare!r}: {_NOTHING}")
        notes += [f"{test}: new, there is nothing to compare it with" for test in new]
        now = baseline.identity()
        changed = [
            f"{what} was {self._machine.get(what)}, is {value}"
            for what, value in now.items()
            if self._machine.get(what) != value
        ]
        if changed:
            notes.append(
                f"the baseline {self._compare!r} is of another machine, so nothing fails by it: {'; '.join(changed)}"
            )
        else:
            notes.append(_HONESTLY)
        command: dict[str, Any] = {"command": f"pytest --isolation-compare={self._compare}"}
        return Result(NODEID, notes=tuple(notes), **command)


_NOTHING = "no test of this session measured anything. Mark one with latency(p95_ms=…), or time a part with `latency`"
_HONESTLY = (
    "a stored baseline holds the speed of the machine on that day, and the same one may take twice as long on another. "
    "To know, compare in one session: latency.compare(old, new)"
)
