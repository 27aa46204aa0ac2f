"""`isolation profile` on backends in this process: which stages it times, and how it judges them."""

import pytest

REQUEST = [("factory", "context.create"), ("factory", "agent.create"), ("factory", "context.cleanup")]
EVENT = [("websocket", "inbox.open"), ("websocket", "event.dispatch")]
QUERY = [("database", "session.acquire"), ("database", "query.simple"), ("database", "session.close")]
SOCKET = [("socket", "socket.connect"), ("socket", "socket.event")]
HTTP = [("e2e over HTTP", None)]


def kiosk(kind):
    return ("--backend", f"profiling.kiosk:{kind}")


def test_every_stage_of_a_backend_that_is_fast_enough_passes(profile):
    """Of one's own in this process there are all but those over sockets, which a line says."""
    ended = profile("--all", *kiosk("Kiosk"))
    assert ended.code == 0, ended.out
    assert ended.stages == [*REQUEST, *EVENT, *QUERY, ("e2e", None), ("concurrent", None)]
    assert {verdict["outcome"] for result in ended.report["results"] for verdict in result["verdicts"]} == {"pass"}
    assert "nothing was measured over real sockets: name an application with --app MOD:APP" in ended.notes
    assert ended.out.rstrip().endswith("PASS")


@pytest.mark.parametrize(
    "option, stages",
    [("--factory", REQUEST), ("--websocket", EVENT), ("--database", QUERY), ("--e2e", [("e2e", None)])],
)
def test_a_part_is_measured_alone_if_it_is_asked_for(profile, option, stages):
    ended = profile(option, *kiosk("Kiosk"))
    assert (ended.code, ended.stages) == (0, stages)


def test_without_an_option_everything_is_measured(profile):
    ended = profile("--iterations", "20", *kiosk("Kiosk"))
    assert len(ended.stages) == 10


def test_the_reference_backend_is_measured_over_real_sockets_too(profile):
    """With its own application, in a process of its own."""
    ended = profile("--websocket", "--e2e", "--iterations", "20")
    assert ended.code == 0, ended.out
    assert ended.stages == [*EVENT, *SOCKET, ("e2e", None), *HTTP]
    assert "reference_impl.app:create_app, served by uvicorn in a process of its own" in ended.out


def test_a_stage_over_its_target_fails_and_is_named(profile):
    """All the others are still measured and judged."""
    ended = profile("--factory", "--e2e", "--iterations", "60", *kiosk("SlowToOpen"))
    assert ended.code == 1
    assert ended.verdict("factory", "context.create")["outcome"] == "fail"
    assert ended.verdict("factory", "context.create")["confirmed"]
    assert ended.verdict("factory", "agent.create")["outcome"] != "fail"
    assert ended.verdict("e2e")["outcome"] != "fail"
    assert "\nFAIL" in ended.out
    assert "\n  factory [context.create]: p95 over target" in ended.out


@pytest.mark.soak
def test_the_whole_request_over_its_target_says_why(profile):
    """Here the time is the thread's own."""
    ended = profile("--e2e", "--iterations", "40", "--backend", "profiling.kiosk:SlowToAnswer")
    assert ended.code == 1
    assert "OVER BUDGET  p95" in ended.out
    assert "own CPU" in ended.out


def test_every_call_is_made_also_when_the_verdict_is_clear(profile):
    """A profile is read for its quantiles."""
    ended = profile("--factory", "--iterations", "150", *kiosk("Kiosk"))
    assert ended.verdict("factory", "agent.create")["samples"] == 150


def test_users_who_come_at_once_are_measured_together(profile):
    """How many requests a second they get is said beside it."""
    ended = profile("--concurrent", "--users", "5", "--iterations", "30", *kiosk("Kiosk"))
    assert ended.verdict("concurrent")["arrivals"] is not None
    assert any(note.startswith("with 5 users who come back at once, ") for note in ended.notes)


def test_a_backend_that_fails_is_a_failure_and_the_other_areas_are_measured(profile):
    ended = profile("--factory", "--database", *kiosk("Broken"))
    assert ended.code == 1
    assert "factory failed: LookupError: no agent 'clerk' any more" in ended.out
    assert ended.verdict("database", "query.simple")["outcome"] == "pass"


def test_what_a_backend_measured_before_it_failed_is_kept(profile):
    """With the number of calls."""
    ended = profile("--factory", *kiosk("Broken"))
    assert ended.verdict("factory", "context.create")["samples"] == 11  # after a warm-up of 20
    assert any("failed after 11 calls" in note for note in ended.notes)


def test_a_stage_may_be_held_to_another_target(profile):
    """By its name, a whole call by that of its area."""
    ended = profile("--database", "--e2e", "--target", "query.simple=250", "--target", "e2e=0.000001", *kiosk("Kiosk"))
    limits = {
        verdict["budget"]["span"]: verdict["budget"]["limit_s"]
        for result in ended.report["results"]
        for verdict in result["verdicts"]
    }
    assert ended.code == 1
    assert limits == {
        "session.acquire": 0.002,
        "query.simple": 0.25,
        "session.close": 0.005,
        None: pytest.approx(1e-9),
    }
