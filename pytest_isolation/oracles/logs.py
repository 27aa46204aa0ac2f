"""What is logged, warned of, printed, traced, counted or written during a user's work bears no secret of another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pytest_isolation.model import Evidence, Finding
from pytest_isolation.oracles.canaries import foreign_canaries
from pytest_isolation.users.story import Story

_SILENT = Story(())
_DONE = {
    "file": "wrote into a file",
    "cache": "put into a cache",
    "baggage": "sent along as baggage",
}


def overheard_canaries(evidence: Evidence, story: Story) -> Iterator[Finding]:
    """A finding for every secret of somebody else in what was overheard of a user: each pair of them once."""
    runs = tuple(
        replace(run, observations=run.overheard, overheard=(), error=None) for run in evidence.runs if run.overheard
    )
    for finding in foreign_canaries(replace(evidence, runs=runs), _SILENT):
        secret = finding.summary.removeprefix(f"{finding.user} received ")
        did = next((did for where, did in _DONE.items() if finding.channel.startswith(where)), "logged or printed")
        yield replace(finding, summary=f"the work of {finding.user} {did} {secret}")
