"""Nobody notices the others."""

import pytest

from pytest_isolation.oracles.interference import departures


def see(user):
    """What a user sees who is alone."""
    user.observe({"me": user.id, "count": 1})
    user.observe("done", "event")


def test_users_who_tell_the_same_story_are_no_finding(stage):
    """After names are changed."""
    story = stage.story(see)
    for user in stage.users:
        see(user)
    assert list(departures(stage.evidence(), story)) == []


@pytest.mark.parametrize(
    ("other", "summary", "channel", "expected", "seen"),
    [
        (
            lambda u: (u.observe({"me": u.id, "count": 3}), u.observe("done", "event")),
            "user-00 saw another response than alone",
            "response, at $.count",
            "1",
            "3",
        ),
        (
            lambda u: u.observe({"me": u.id, "count": 1}),
            "user-00 received one event less than alone",
            "event",
            "done",
            "nothing",
        ),
        (
            lambda u: (see(u), u.observe("done", "event")),
            "user-00 received one event more than alone",
            "event 2 of 2",
            "nothing",
            "done",
        ),
        (
            lambda u: (u.observe({"me": "nobody", "count": 3}), u.observe("done", "event")),
            "user-00 saw another response than alone",
            "response, at $.count, and at 1 more",
            "1",
            "3",
        ),
    ],
)
def test_a_departure_is_a_finding(stage, other, summary, channel, expected, seen):
    """Another answer, a lost one, a doubled one."""
    story = stage.story(see)
    user = stage.users[0]
    other(user)
    [finding] = departures(stage.evidence(stage.run(user)), story)
    assert (finding.summary, finding.channel, finding.expected, finding.seen) == (summary, channel, expected, seen)


def test_a_shifted_reply_without_any_canary_is_found(stage):
    """A cancelled request left its reply behind: the next user reads OK where its value should be."""
    story = stage.story(lambda user: user.observe(user.secret("value")))
    stage.users[0].observe("OK")
    [finding] = departures(stage.evidence(stage.run(stage.users[0])), story)
    assert (finding.expected, finding.seen) == ("<value of user-00>", "OK")
