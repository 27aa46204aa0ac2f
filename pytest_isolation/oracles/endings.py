"""Every user gets to the end, as a user does who is alone: nobody fails, nobody waits for ever."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_isolation.model import Confidence, Evidence, Finding, Kind, Run
from pytest_isolation.users.story import Story
from pytest_isolation.users.transcript import labeller, rename, shorten


def bad_endings(evidence: Evidence, story: Story) -> Iterator[Finding]:
    """A finding for every user whose run failed or did not end; alone it ended well, or nothing was judged."""
    for run in evidence.runs:
        if run.error is not None:
            text = f"{type(run.error).__name__}: {run.error}".rstrip(": ")
            seen = shorten(rename(text, labeller(evidence, run.number)))
            yield _finding(evidence, run, Kind.FAILED, f"{run.user} failed", seen)
        elif not run.ended:
            summary = f"{run.user} never got to the end"
            where = f", at {run.waits_at}" if run.waits_at else ""
            yield _finding(evidence, run, Kind.STARVED, summary, f"still waiting after {run.seconds:.1f} s{where}")


def _finding(evidence: Evidence, run: Run, kind: Kind, summary: str, seen: str) -> Finding:
    return Finding(
        kind=kind,
        user=run.user,
        phase=evidence.phase,
        summary=f"{summary}, though the scenario ended well for those who were alone before",
        seen=seen,
        replay=evidence.replay,
        confidence=Confidence.DIFFERENT,
    )
