"""Runs the command as a shell would."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
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


def perform(path, *options):
    """`isolation load` for half a second, with small numbers unless others are given; in this process."""
    small = ("--users", "10", "--duration", "0.5", "--rate", "200", "--burst-users", "10", "--target-p95", "60000")
    out, err, report = io.StringIO(), io.StringIO(), None
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        patch.setattr(sys, "path", list(sys.path))
        main(["load", *small, "--seed", "7", "--save", str(path), *options])
    if path.exists():
        report = json.loads(path.read_text())
        jsonschema.validate(report, SCHEMA)  # also with leaks, errors and an overload in it
    return Ended(end.value.code, out.getvalue(), err.getvalue(), report)


@pytest.fixture
def load(tmp_path):
    """Does a load test."""
    return partial(perform, tmp_path / "reports" / "load.json")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What came of a load test that several tests look at, by its options."""

    @cache
    def once(*options):
        return perform(tmp_path_factory.mktemp("load") / "load.json", *options)

    return once


@pytest.fixture
def started(command):
    """Starts `isolation load` in a process of its own."""
    return partial(command, "load")


def children():
    """The processes that this one has started."""
    return {child.pid for child in psutil.Process().children(recursive=True)}
