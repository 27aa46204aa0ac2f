"""What a person sees while it runs."""

import io

from pytest_isolation.load.plan import Phase
from pytest_isolation.load.progress import Progress
from pytest_isolation.load.tally import PhaseTally


class Terminal(io.StringIO):
    def isatty(self):
        return True


def tick(stream, under_way=3):
    progress = Progress(stream)
    tally = PhaseTally(Phase("burst", 10.0))
    progress.tick(tally, 4.0, 300, under_way, 1)
    return progress, tally


def test_a_terminal_has_one_line_that_changes():
    stream = Terminal()
    progress, tally = tick(stream)
    progress.tick(tally, 5.0, 300, 2, 1)
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "burst 4/10 s, 300 users: 0 attempts, 0 errors, 1 leaks, 3 under way"
    assert second.startswith("burst 5/10 s")
    assert "\n" not in stream.getvalue()


def test_what_stays_takes_its_place():
    stream = Terminal()
    progress, tally = tick(stream)
    progress.ended(tally)
    assert stream.getvalue().endswith("\rburst: 0 attempts in 10 s, 0 errors\n")


def test_elsewhere_nothing_changes():
    stream = io.StringIO()
    tick(stream)
    assert stream.getvalue() == ""


def test_what_was_dropped_is_said():
    stream = io.StringIO()
    tally = PhaseTally(Phase("burst", 10.0))
    tally.dropped = 5
    Progress(stream).ended(tally)
    assert "5 arrivals dropped" in stream.getvalue()
