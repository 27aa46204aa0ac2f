"""What a reader of a session's end is told, and how often."""

import pytest

from pytest_isolation.model import Finding, Kind, Result
from pytest_isolation.reports.terminal import failure_text

KEPT = """
    import asyncio, pytest
    CACHE, recent = {}, []
    class Audit: log = []
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=8, heap=True)
    async def test_note(user):
        CACHE[user.id] = user.secret("note")
        Audit.log.append(user.secret("note"))
        recent.append({"text": user.secret("note")})
        await asyncio.sleep(0)
        user.observe(CACHE[user.id])
"""
TRACKED = """
    import asyncio, pytest
    class Message: pass
    class Box:
        def __init__(self): self.kept = []
    boxes = [Box() for _ in range(9)]
    class Outbox: last = []
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=8, cancel=False)
    async def test_message(user):
        for place in PLACES:
            place.append(user.track(Message()))
        user.observe(user.id)
"""


def test_whatever_keeps_secrets_is_named(suite):
    """Each store is another finding, though the kind is the same."""
    result = suite(KEPT)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines_random([f"  kept by   test_it.{name} → *" for name in ("CACHE", "Audit.log", "recent")])
    result.stdout.no_fnmatch_line("*more of this kind*")


def test_what_the_same_store_keeps_is_counted(suite):
    """Whichever entry it is; users of another store are told beside that store."""
    result = suite(TRACKED.replace("PLACES", "(boxes[0].kept, Outbox.last)"))
    result.assert_outcomes(failed=1)
    told = [line for line in result.outlines if line.startswith("RETAINED")]
    assert len(told) == 2
    result.stdout.fnmatch_lines_random(["  kept by   test_it.boxes → *", "  kept by   test_it.Outbox.last → *"])
    result.stdout.fnmatch_lines(["… and * more of this kind: *"])


def test_pytests_summary_has_one_line_of_each_failure_on_ci_too(suite, monkeypatch):
    """There pytest would repeat all that was found, which the log has already."""
    monkeypatch.setenv("CI", "true")
    lines = suite(KEPT).outlines
    after = lines[next(n for n, line in enumerate(lines) if "short test summary" in line) + 1 :]
    assert len(after) == 2
    assert after[0].startswith("FAILED test_it.py::test_note - Failed: RETAINED")


@pytest.mark.parametrize(("count", "said"), [(1, "1 time"), (2, "2 times")])
def test_how_often_it_was_played(suite, count, said):
    """In the number that is due."""
    source = f"""
    def test_it(users):
        for user in users({count}):
            user.observe(user.id)
    """
    suite(source).stdout.fnmatch_lines([f"1 scenario played {said}: 0 findings*"])


def test_after_so_many_stores_the_others_are_named_only():
    """Without the rest of the finding; none goes unnamed."""
    kept = [
        Finding(Kind.RETAINED, f"user-{n:02}", "crowd", "kept", kept_by=f"shop.box_{n % 7} → list[{n}]")
        for n in range(14)
    ]
    text = failure_text(Result("test_it.py::test", "pytest", (), kept))
    assert all(f"shop.box_{n}" in text for n in range(7))
    assert text.count("RETAINED") == 5
    assert "… and 2 more of this kind: user-05, user-12\n  kept by   shop.box_5 → list[5]" in text
    assert "… and 5 more of this kind: user-07, user-08, user-09, user-10, user-11" in text.splitlines()


def test_what_several_checks_note_alike_is_said_once(suite):
    """With how often; a cancel sweep of each of them is covered."""
    source = """
    import asyncio, pytest
    async def ask(user):
        await asyncio.sleep(0)
        user.observe(user.id)
    @pytest.mark.asyncio
    async def test_it(isolation):
        for _ in range(3):
            await isolation.check(ask, users=2)
    """
    result = suite(source)
    result.assert_outcomes(passed=1)
    said = [line for line in result.outlines if "cancel sweep" in line]
    assert said == ["test_it.py::test_it: cancel sweep: 1 of 1 points (3 times)"]
