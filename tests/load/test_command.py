"""`isolation load` on backends in this process: what it counts, what it finds, how it ends."""

import asyncio
import gc

import pytest

from pytest_isolation.load import runner
from pytest_isolation.load.samples import Samples

MANY = ("--duration", "1", "--rate", "500", "--burst-users", "0")
# Few enough that nobody has to wait, also on a machine on which ten others work.
CALM = ("--duration", "1", "--rate", "100", "--burst-users", "0")
PHASES = ["steady", "burst", "sustained", "mixed"]


def shop(kind):
    return ("--backend", f"load.shop:{kind}")


def kinds(ended):
    """How attempts failed."""
    return {failure["kind"] for failure in ended.report["failures"]}


def test_the_reference_backend_passes_on_sqlite(load):
    """Every operation, in every phase, without a leak or an error."""
    ended = load("--burst-users", "2", "--duration", "2.5", "--rate", "60")
    assert ended.code == 0, ended.out
    assert "\nFAIL" not in ended.out
    assert [phase["name"] for phase in ended.report["phases"]] == PHASES
    assert {line["operation"] for line in ended.report["lines"]} == {"chat", "websocket", "messages", "idle"}
    assert all(line["attempts"] for line in ended.report["lines"])
    assert (ended.report["leaks"], ended.report["failures"]) == (0, [])
    assert ended.report["searched"] > sum(phase["attempts"] for phase in ended.report["phases"])


CROWDED = ("--users", "10", "--burst-users", "20", "--burst-duration", "0.3", "--backend", "load.shop:Shop")


def test_as_many_came_as_were_asked_for(ended):
    """The rate is that of --users; who comes besides in the burst comes as often."""
    crowded = ended(*CROWDED)
    for name, rate, users in (("steady", 200, 10), ("burst", 600, 30), ("sustained", 200, 10), ("mixed", 200, 10)):
        phase = crowded.phase(name)
        assert phase["users"] == users
        assert phase["attempts"] == pytest.approx(rate * phase["seconds"], abs=users)


def test_the_table_holds_every_line_and_the_evidence(ended):
    crowded = ended(*CROWDED)
    heading, *rows = [line for line in crowded.out.splitlines() if " ≤ " in line or line.startswith("phase")]
    assert heading.split() == [
        *("phase", "operation", "attempts", "errors", "p50", "p95", "p99", "max", "target", "machine", "verdict")
    ]
    assert len(rows) == len(crowded.report["lines"]) == 10
    for word in (
        "no secret of somebody else",
        "0 of ",
        "sent late by",
        "0 dropped",
        "too short to tell a trend",
        "seed 7",
    ):
        assert word in crowded.out


def test_a_leak_that_needs_two_users_at_once_is_found(ended):
    """Its correct twin is silent in every other test here."""
    leaking = ended(*shop("Leaking"))
    assert leaking.code == 1
    assert leaking.report["leaks"] >= len(leaking.report["findings"]) > 0
    assert "LEAK  user-" in leaking.out
    assert "received the secret 'message " in leaking.out
    assert f"isolation: {leaking.report['leaks']} requests got a secret of somebody else" in leaking.out


def test_a_leak_in_events_is_found(load):
    ended = load(*shop("Misdirecting"), *MANY)
    assert ended.code == 1
    assert any(finding["channel"].startswith("event") for finding in ended.report["findings"])


@pytest.mark.parametrize("kind", ["Leaking", "Failing"])
def test_nothing_secret_is_printed(ended, kind):
    """Canaries have names."""
    assert "cnryx" not in ended(*shop(kind)).out


def test_a_tenth_that_fails_is_a_tenth_of_the_attempts(ended):
    """Not of the successes, and the one who failed goes on."""
    failing = ended(*shop("Failing"))
    assert failing.code == 1
    asked = [line for line in failing.report["lines"] if line["operation"] in ("chat", "websocket")]
    errors, attempts = (sum(line[name] for line in asked) for name in ("errors", "attempts"))
    assert errors / attempts == pytest.approx(0.1, abs=0.06)
    assert kinds(failing) == {"exception RuntimeError"}
    assert "for example: no more paper for <id of user-" in failing.out
    assert "attempts failed, more than 0.001" in failing.out


def test_who_may_fail_more_often_is_not_blamed_for_it(load):
    ended = load(*shop("Failing"), "--max-error-rate", "0.5")
    assert all(phase["within_errors"] for phase in ended.report["phases"])
    assert "attempts failed" not in ended.out


def test_an_attempt_that_failed_does_not_improve_the_quantiles(load):
    """A third failed, so 95 of 100 did not answer in any time."""
    ended = load(*shop("Unreliable"), *MANY, "--max-error-rate", "0.5")
    p95 = {e["quantile"]: e["value_s"] for e in ended.line("sustained", "chat")["estimates"]}[0.95]
    assert p95 is None
    assert "failed (" in ended.out


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Disconnecting", "connection lost"),
        ("Forgetful", "wrong answer"),
        ("Muddled", "wrong answer"),
        ("Cancelling", "cancelled"),
    ],
)
def test_every_way_to_fail_is_counted_under_its_name(load, kind, said):
    ended = load(*shop(kind))
    assert ended.code == 1
    assert kinds(ended) == {said}


def test_who_does_not_answer_in_time_has_failed(load):
    ended = load(*shop("Hanging"), "--timeout", "0.2", "--rate", "50", "--mix", "chat=1")
    assert ended.code == 1
    assert kinds(ended) == {"timeout"}
    assert "no answer within 0.2 s" in ended.out


def test_a_backend_that_says_little_is_no_wrong_one(load):
    """Whether answers hold what was said is learnt from a user who is alone."""
    ended = load(*shop("Curt"), *CALM)
    assert ended.code == 0, ended.out
    assert "answers do not hold what was said" in ended.out


def test_a_load_beyond_the_capacity_has_no_p95_and_what_never_got_its_turn_is_counted(load, monkeypatch):
    """Users who are too far behind do not go on for ever."""
    monkeypatch.setattr(runner, "_GRACE_S", 0.05)
    ended = load(*shop("Slow"), "--burst-users", "0", "--duration", "1")
    assert ended.code == 1
    assert ended.phase("sustained")["overloaded"]
    assert ended.phase("sustained")["dropped"] > 0
    assert ended.line("sustained", "chat")["estimates"] == []
    assert ended.line("sustained", "chat")["verdict"] == "overloaded"
    assert "sustained: overloaded: the queue is still growing" in ended.out


def test_a_target_that_is_missed_fails(load):
    """When the whole interval lies over it."""
    ended = load(*shop("Shop"), *MANY, "--target-p95", "0.001")
    assert ended.code == 1
    assert "sustained, chat: p95 over target" in ended.out


def test_a_target_that_is_kept_passes(load):
    """When the whole interval lies under it, which takes more than a hundred."""
    ended = load(*shop("Shop"), "--duration", "3", "--rate", "170", "--burst-users", "0")
    assert ended.code == 0, ended.out
    assert (ended.report["verdict"], ended.line("sustained", "chat")["verdict"]) == ("pass", "pass")


def test_a_target_that_nothing_proves_is_undecided(load):
    """Which is no failure, and no pass either."""
    calm = load(*shop("Shop"), *CALM)
    assert calm.code == 0, calm.out
    assert calm.report["verdict"] == "undecided"
    assert "UNDECIDED, 8 of 8 lines have too few attempts to prove their p95" in calm.out


def test_too_few_to_judge_is_no_pass(load):
    """Nothing measured is a failure."""
    ended = load(*shop("Shop"), "--users", "1", "--rate", "4", "--burst-users", "0", "--duration", "1")
    assert ended.code == 1
    assert "nothing measured" in ended.out


def test_who_answers_nobody_is_noticed_before_the_load(load):
    ended = load(*shop("Broken"))
    assert ended.code == 1
    assert "nothing measured: a user who was alone tried 9 times and got no answer" in ended.err
    assert "RuntimeError: closed for ever" in ended.err


def test_what_was_measured_outlives_a_bad_end(load):
    ended = load(*shop("Unclosable"), *CALM)
    assert ended.code == 0, ended.out
    assert "the target did not close well: OSError: the database is gone" in ended.out


def test_the_same_seed_sends_the_same_users_at_the_same_times(load):
    first, second = (load(*shop("Shop"), "--duration", "0.3") for _ in range(2))
    assert [line["attempts"] for line in first.report["lines"]] == [line["attempts"] for line in second.report["lines"]]


def test_many_samples_are_said_to_be_in_bins(load, monkeypatch):
    monkeypatch.setattr(runner.PhaseTally.__init__.__globals__["Tally"], "__init__", _small_tally)
    ended = load(*shop("Shop"))
    assert "in bins, true to 1 %" in ended.out


def _small_tally(tally):
    tally.attempts = tally.errors = tally.at_once = 0
    tally.answered_s = tally.machine_s = 0.0
    tally.latencies, tally.own, tally.apart = Samples(exact=10), Samples(exact=10), Samples(exact=10)


def test_no_task_is_left(load, recwarn):
    """Nor a loop, nor a socket."""
    load(*shop("Hanging"), "--timeout", "0.1", "--duration", "0.3")
    gc.collect()
    assert not [task for task in gc.get_objects() if isinstance(task, asyncio.Task) and not task.done()]


def test_without_a_terminal_there_is_a_line_for_each_phase(ended):
    crowded = ended(*CROWDED)
    assert [line.partition(":")[0] for line in crowded.err.splitlines()] == PHASES
    assert "\r" not in crowded.err
