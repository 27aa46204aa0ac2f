"""Hooks that other plugins and conftest files may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_isolation.model import Finding, Observation


@pytest.hookspec
def pytest_isolation_oracles() -> Iterable[Callable[..., Iterable[Finding]]]:  # type: ignore[empty-body]
    """Further oracles for every isolation test.

    Returns:
        Callables ``oracle(evidence, story)`` that yield findings: ``evidence`` is what a phase left behind
        (``pytest_isolation.model.Evidence``), ``story`` what a user alone sees (``users.story.Story``).
    """


@pytest.hookspec(firstresult=True)
def pytest_isolation_normalise(observation: Observation) -> Observation | None:
    """What an observation reads for the comparison with solo runs, for instance without a queue position.

    The search for foreign canaries always looks at the observation as it was.

    Returns:
        Another observation; None to leave it to others.
    """


@pytest.hookspec(firstresult=True)
def pytest_isolation_allow(finding: Finding) -> str | None:
    """Why a finding is no fault here; the report keeps it as a note.

    Returns:
        The reason; None if it is a fault.
    """
