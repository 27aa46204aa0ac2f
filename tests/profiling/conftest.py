"""Runs the command as a shell would."""

import json
import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from pytest_isolation.cli import main

SCHEMA = json.loads(files("pytest_isolation.reports").joinpath("schema/report-1.json").read_text())


@dataclass
class Ended:
    """What came of a command."""

    code: int
    out: str
    err: str
    report: dict[str, Any] | None

    def verdict(self, area, span=None):
        """The outcome of one stage."""
        [result] = [result for result in self.report["results"] if result["nodeid"] == area]
        [verdict] = [each for each in result["verdicts"] if each["budget"]["span"] == span]
        return verdict

    @property
    def stages(self):
        return [
            (result["nodeid"], verdict["budget"]["span"])
            for result in self.report["results"]
            for verdict in result["verdicts"]
        ]

    @property
    def notes(self):
        return [note for result in self.report["results"] for note in result["notes"]]


@pytest.fixture
def profile(capsys, tmp_path, monkeypatch):
    """`isolation profile` with few calls unless others are given; in this process."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*options):
        path = tmp_path / "reports" / "profile.json"
        with pytest.raises(SystemExit) as end:
            main(["profile", "--iterations", "150", "--seed", "7", "--save", str(path), *options])
        said, report = capsys.readouterr(), None
        if path.exists():
            report = json.loads(path.read_text())
            jsonschema.validate(report, SCHEMA)
        return Ended(end.value.code, said.out, said.err, report)

    return run
