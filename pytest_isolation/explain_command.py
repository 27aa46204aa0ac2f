"""``isolation explain REPORT.json``: what a report says, for people; the steps of a finding as a sequence diagram."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_isolation.errors import MisuseError
from pytest_isolation.model import Finding, Result
from pytest_isolation.reports import sequence
from pytest_isolation.reports.budgets import verdict_text
from pytest_isolation.reports.figures import counted, printable
from pytest_isolation.reports.findings import finding_text
from pytest_isolation.reports.json import VERSION, decode

_EPILOG = "Ends with 0, or with 2 if the report cannot be read or has no such finding."


def main(arguments: Sequence[str], program: str = "isolation explain") -> int:
    """Explain a report.

    Args:
        arguments: of the command line, after ``explain``.
        program: how it was called.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        program,
        description="Shows what a JSON report of --isolation-report=PATH.json says, with the steps as a diagram.",
        epilog=_EPILOG,
    )
    parser.add_argument("report", type=Path, metavar="REPORT.json")
    parser.add_argument("--finding", type=int, metavar="N", help="only the N-th one, from 1")
    parser.add_argument("--svg", type=Path, metavar="PATH.svg", help="draw the steps of that finding (or of the first)")
    chosen = parser.parse_args(arguments)
    try:
        results = read(chosen.report)
        findings = _chosen(results, chosen.finding)
        sys.stdout.write(f"{printable(told(results, findings, chosen.finding is not None))}\n")
        if chosen.svg is not None:
            _draw(chosen.svg, findings)
    except MisuseError as error:
        parser.error(str(error))
    return 0


def read(path: Path) -> list[Result]:
    """The results of a report.

    Raises:
        MisuseError: there is no report at this path, or it is none of this version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MisuseError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise MisuseError(f"{path} is no JSON: {error}; pytest --isolation-report={path} writes one") from None
    if not isinstance(content, dict) or content.get("version") != VERSION or "results" not in content:
        raise MisuseError(f"{path} is no report of version {VERSION}; pytest --isolation-report={path} writes one")
    try:
        return [decode(result) for result in content["results"]]
    except (KeyError, TypeError, ValueError) as error:
        raise MisuseError(f"{path} was written by another version of pytest-isolation: {error}") from None


Found = tuple[int, Result, Finding]


def _chosen(results: Sequence[Result], number: int | None) -> list[Found]:
    every = [(result, finding) for result in results for finding in result.findings]
    numbered = [(place, *each) for place, each in enumerate(every, 1)]
    if number is None:
        return numbered
    if not 1 <= number <= len(numbered):
        some = f"there are {len(numbered)}, from 1" if numbered else "there is none in this report"
        raise MisuseError(f"--finding {number}: {some}")
    return [numbered[number - 1]]


def told(results: Sequence[Result], findings: Sequence[Found], only: bool) -> str:
    """Every finding with its diagram, then what the budgets came to.

    Args:
        results: of the whole report.
        findings: that are to be told of, each with its number.
        only: nothing else is asked for.
    """
    parts = [_finding(number, result, finding) for number, result, finding in findings]
    if not only:
        parts += [part for result in results for part in _rest(result)]
    return "\n\n".join(parts) or "nothing was found, and no budget was judged"


def _finding(number: int, result: Result, finding: Finding) -> str:
    head = f"{number}. {result.nodeid}\n{finding_text(replace(finding, steps=''), result.command)}"
    return f"{head}\n\n{sequence.text(finding.steps)}" if finding.steps else head


def _rest(result: Result) -> Iterator[str]:
    said = [*map(verdict_text, result.verdicts), *(f"note: {note}" for note in counted(result.notes))]
    if said:
        yield "\n".join([result.nodeid, *said])


def _draw(path: Path, findings: Sequence[Found]) -> None:
    steps = next((finding.steps for _, _, finding in findings if finding.steps), "")
    if not steps:
        raise MisuseError("--svg: no finding has steps; only isolation.explore and explore=1 decide who runs when")
    try:
        path.write_text(sequence.svg(steps), encoding="utf-8")
    except OSError as error:
        raise MisuseError(f"--svg {path}: {error.strerror or error}") from None
