"""Figures, each measured side by side with what it is compared with, and printed next to its aim."""

from __future__ import annotations

from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Figure:
    """One line of the table at the end."""

    name: str
    value: float
    unit: str
    aim: str
    kept: bool
    details: str


FIGURES = pytest.StashKey[list[Figure]]()


def pytest_configure(config):
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section("figures")
    for figure in config.stash[FIGURES]:
        line = f"{figure.name:<62} {figure.value:>9.3g} {figure.unit:<5} aim {figure.aim:<10} {_said(figure)}"
        terminalreporter.line(f"{line:<98} {figure.details}".rstrip(), green=figure.kept, red=not figure.kept)
    with_aim = [figure for figure in config.stash[FIGURES] if figure.aim != "none"]
    kept = sum(figure.kept for figure in with_aim)
    terminalreporter.line(f"{kept} aims kept, {len(with_aim) - kept} missed")


def _said(figure: Figure) -> str:
    """A colour alone says nothing in a file."""
    return "" if figure.aim == "none" else "kept" if figure.kept else "MISSED"


@pytest.fixture
def figure(request, benchmark):
    """Takes down a figure, and shows it in pytest-benchmark's own table too."""

    def note(
        name: str, value: float, unit: str, most: float | None = None, least: float | None = None, details: str = ""
    ):
        aim, kept = "none", True  # a figure that stands beside another one, to be honest about it
        if most is not None:
            aim, kept = f"≤ {most:g}", value <= most
        elif least is not None:
            aim, kept = f"≥ {least:g}", value >= least
        request.config.stash[FIGURES].append(Figure(name, value, unit, aim, kept, details))
        benchmark.extra_info.update({"figure": value, "unit": unit, "aim": aim})

    return note
