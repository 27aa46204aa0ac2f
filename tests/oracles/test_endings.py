"""Every user gets to the end."""

from pytest_isolation.model import Kind
from pytest_isolation.oracles.endings import bad_endings
from pytest_isolation.users.story import Story

SILENT = Story(())


def test_users_who_end_well_are_no_finding(stage):
    """The usual case."""
    assert list(bad_endings(stage.evidence(), SILENT)) == []


def test_a_failed_user_is_a_finding_with_its_error(stage):
    """Names changed, as everywhere in a report."""
    alice, bob, _ = stage.users
    secret = bob.secret("note")
    [finding] = bad_endings(stage.evidence(stage.run(alice, ValueError(f"not {secret}"))), SILENT)
    assert (finding.kind, finding.user, finding.seen) == (Kind.FAILED, "user-00", "ValueError: not <note of user-01>")


def test_an_error_without_words_is_named_by_its_type(stage):
    """`raise TimeoutError`."""
    [finding] = bad_endings(stage.evidence(stage.run(stage.users[0], TimeoutError())), SILENT)
    assert finding.seen == "TimeoutError"


def test_a_starved_user_is_a_finding(stage):
    """It waited until the time limit."""
    [finding] = bad_endings(stage.evidence(stage.run(stage.users[1], ended=False, seconds=30.04)), SILENT)
    assert (finding.kind, finding.user, finding.seen) == (Kind.STARVED, "user-01", "still waiting after 30.0 s")
