"""Runs the command as a shell would."""

import json
import sys
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import jsonschema
import psutil
import pytest

from pytest_isolation.cli import main

SCHEMA = json.loads(files("pytest_isolation.reports").joinpath("schema/load-1.json").read_text())


@dataclass
class Ended:
    """What came of a command."""

    code: int
    out: str
    err: str
    report: dict[str, Any] | None

    def line(self, phase, operation):
        [line] = [row for row in self.report["lines"] if (row["phase"], row["operation"]) == (phase, operation)]
        return line

    def phase(self, name):
        [phase] = [phase for phase in self.report["phases"] if phase["name"] == name]
        return phase


@pytest.fixture
def load(capsys, tmp_path, monkeypatch):
    """`isolation load` for about a second, with small numbers unless others are given; in this process."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*options):
        path = tmp_path / "reports" / "load.json"
        small = ("--users", "10", "--duration", "1", "--rate", "100", "--burst-users", "10", "--target-p95", "60000")
        with pytest.raises(SystemExit) as end:
            main(["load", *small, "--seed", "7", "--save", str(path), *options])
        said, report = capsys.readouterr(), None
        if path.exists():
            report = json.loads(path.read_text())
            jsonschema.validate(report, SCHEMA)  # also with leaks, errors and an overload in it
        return Ended(end.value.code, said.out, said.err, report)

    return run


@pytest.fixture
def started(command):
    """Starts `isolation load` in a process of its own."""
    return partial(command, "load")


def children():
    """The processes that this one has started."""
    return {child.pid for child in psutil.Process().children(recursive=True)}
