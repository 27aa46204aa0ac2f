"""Nobody notices the others: after names are changed, every user tells the story of a user who is alone.

Where a foreign canary proves a leak, a difference shows what carries none: a shifted reply, a lost or doubled answer,
a count, somebody else's error.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_isolation.model import Confidence, Evidence, Finding, Kind, Run
from pytest_isolation.users.story import Difference, Story
from pytest_isolation.users.transcript import contrast, place


def departures(evidence: Evidence, story: Story) -> Iterator[Finding]:
    """A finding for the first departure of every user from the story of a user who is alone."""
    for run in evidence.runs:
        differences = list(story.differences(evidence, run))
        if differences:
            yield _finding(evidence, story, run, differences[0], len(differences) - 1)


def _finding(evidence: Evidence, story: Story, run: Run, first: Difference, more: int) -> Finding:
    if first.path:
        what = f"saw another {first.channel} than alone"
    else:  # a whole observation is missing, or there is one too many
        what = f"received one {first.channel} {'less' if first.seen is None else 'more'} than alone"
    expected, seen = (story.address(text or "nothing", run.user) for text in (first.expected, first.seen))
    expected, seen = contrast(expected, seen)
    where = place(run, first.channel, first.position, first.path)
    return Finding(
        kind=Kind.DIFFERENT,
        user=run.user,
        phase=evidence.phase,
        summary=f"{run.user} {what}",
        channel=where + (f", and at {more} more" if more else ""),
        expected=expected,
        seen=seen,
        replay=evidence.replay,
        confidence=Confidence.DIFFERENT,
    )
