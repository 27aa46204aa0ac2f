"""isolation explain: a JSON report for people, and the steps of a finding as a diagram."""

import json
from xml.etree import ElementTree

import pytest

from pytest_isolation.cli import main
from pytest_isolation.model import Finding, Kind, Result
from pytest_isolation.reports import sequence
from pytest_isolation.reports.json import report

STEPS = """\
     0.0 ms  user-00: start → shop.py:16 notes()  await asyncio.sleep(0.001)
>    0.0 ms  user-00: cancelled while it waits in shop.py:16 notes()  await asyncio.sleep(0.001)
     1.0 ms  listen#1: start → ends (3 steps)
>    1.5 ms  user-02: start → shop.py:13 notes()  rows = await free.get() & "<x>"   [ahead of user-01]
! nothing can go on"""
LEAK = Finding(Kind.LEAK, "user-02", "exploration", "user-02 received the secret 'note' of user-00", steps=STEPS)
LEFT = Finding(Kind.LEFT, "everybody", "crowd", "3 tasks were left behind")


@pytest.fixture
def saved(tmp_path):
    """Writes a report with these findings; hands back its path."""

    def save(*findings):
        path = tmp_path / "report.json"
        path.write_text(
            json.dumps(report([Result("test_shop.py::test_notes", "pytest test_shop.py", (), findings)], 42))
        )
        return path

    return save


@pytest.fixture
def explain(capsys):
    """Runs the command; hands back its exit code and what it said."""

    def run(*words):
        with pytest.raises(SystemExit) as end:
            main(["explain", *map(str, words)])
        said = capsys.readouterr()
        return end.value.code, said.out + said.err

    return run


def test_a_column_for_each_task_and_a_row_for_each_turn():
    """Users first; who ran, who was cancelled, what asyncio would have done otherwise."""
    assert sequence.text(STEPS).splitlines() == [
        "               user-00   user-02   listen#1",
        "      0.0 ms      ●         │         │      start → shop.py:16 notes()  await asyncio.sleep(0.001)",
        ">     0.0 ms      ✕         │         │      cancelled while it waits in shop.py:16 notes()  await asyncio.sleep(0.001)",
        "      1.0 ms      │         │         ●      start → ends (3 steps)",
        '>     1.5 ms      │         ●         │      start → shop.py:13 notes()  rows = await free.get() & "<x>"   [ahead of user-01]',
        ">                 │         │         │      ! nothing can go on",
    ]


def test_the_drawing_is_xml_that_shows_the_same():
    """Whatever code stands in it."""
    root = ElementTree.fromstring(sequence.svg(STEPS + "\n\x00"))
    shown = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"user-00", "user-02", "listen#1", "✕", "1.5 ms"} <= set(shown)
    assert any(text.startswith('start → shop.py:13 notes()  rows = await free.get() & "<x>"') for text in shown)


def test_every_finding_is_told_with_its_number(saved, explain):
    """The diagram stands in the place of the steps."""
    code, said = explain(saved(LEAK, LEFT))
    assert code == 0
    assert "1. test_shop.py::test_notes\nLEAK  user-02 received the secret 'note' of user-00" in said
    assert "✕" in said
    assert "2. test_shop.py::test_notes\nLEFT  3 tasks were left behind" in said


def test_one_of_them_can_be_chosen(saved, explain):
    """By its number."""
    code, said = explain(saved(LEAK, LEFT), "--finding", 2)
    assert (code, "LEFT" in said, "LEAK" in said) == (0, True, False)


def test_the_diagram_is_drawn_into_a_file(saved, explain, tmp_path):
    """Which a browser shows."""
    assert explain(saved(LEFT, LEAK), "--svg", tmp_path / "steps.svg")[0] == 0
    assert ElementTree.parse(tmp_path / "steps.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("findings", "words", "said"),
    [
        ([LEAK], ["--finding", "2"], "--finding 2: there are 1, from 1"),
        ([], ["--finding", "1"], "there is none in this report"),
        ([LEFT], ["--svg", "x.svg"], "no finding has steps"),
        ([LEAK], ["--svg", "/nowhere/x.svg"], "--svg /nowhere/x.svg: No such file"),
    ],
)
def test_what_is_not_there_is_told(saved, explain, findings, words, said):
    """As wrong usage."""
    code, told = explain(saved(*findings), *words)
    assert (code, said in told) == (2, True), told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no JSON"),
        ("[]", "is no report of version 1"),
        ('{"version": 2, "results": []}', "is no report of version 1"),
        ('{"version": 1, "results": [{}]}', "was written by another version"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, explain, content, said):
    """With how one is made."""
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    code, told = explain(path)
    assert (code, said in told) == (2, True), told


def test_a_report_without_anything_says_so(saved, explain):
    """Rather than nothing."""
    assert explain(saved()) == (0, "nothing was found, and no budget was judged\n")


def test_the_turn_in_which_the_fault_showed_is_drawn_as_that():
    """In the text and in the drawing: a turn of its user, and the one that counts most."""
    steps = "     0.0 ms  user-00: start → shop.py:16 note()\n*    0.0 ms  user-01: start → ends (4 steps)   [ahead of user-00]"
    assert sequence.text(steps).splitlines() == [
        "               user-00   user-01",
        "      0.0 ms      ●         │      start → shop.py:16 note()",
        "*     0.0 ms      │         ●      start → ends (4 steps)   [ahead of user-00]",
    ]
    root = ElementTree.fromstring(sequence.svg(steps))
    circles = [one for one in root if one.tag.endswith("circle")]
    rows = [float(one.get("cy")) for one in circles]
    assert [one.get("r") for one in circles if one.get("cy") == str(int(max(rows)))] == ["5", "9"]
    red = [one.text for one in root if one.tag.endswith("text") and one.get("class") == "g"]
    assert red == ["0.0 ms", "start → ends (4 steps)   [ahead of user-00]"]
