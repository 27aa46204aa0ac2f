"""``--isolation-save`` and ``--isolation-compare``: what is measured today beside what an earlier session stored."""

import json
from statistics import median

import pytest

from pytest_isolation.latency.baseline import identity

TEST = """
    import pytest
    from time import thread_time

    def work(seconds):
        end = thread_time() + seconds
        while thread_time() < end:
            pass

    @pytest.mark.latency(p95_ms=100)
    def test_it():
        work({seconds})
"""
NODEID = "test_it.py::test_it"


def stored(pytester, name="main"):
    """What a baseline holds."""
    return json.loads((pytester.path / ".isolation" / f"{name}.json").read_text())


def store(pytester, typical, name="main", **machine):
    """A baseline of this machine, or of another one."""
    folder = pytester.path / ".isolation"
    folder.mkdir(exist_ok=True)
    samples = {NODEID: {"": [typical * (1 + n / 1000) for n in range(100)]}}
    (folder / f"{name}.json").write_text(
        json.dumps({"version": 1, "machine": identity() | machine, "samples": samples})
    )


def test_samples_are_stored(suite, pytester):
    """And the summary says where."""
    result = suite(TEST.format(seconds=0), "--isolation-save=main")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["the samples of 1 test are stored in *.isolation*main.json"])
    assert len(stored(pytester)["samples"][NODEID][""]) >= 100
    assert stored(pytester)["machine"] == identity()


@pytest.mark.parametrize("options", [(), ("--isolation-budget",)])
def test_what_is_as_fast_passes(suite, pytester, options):
    """With both medians, and what a stored baseline is worth."""
    store(pytester, 0.5)
    result = suite(TEST.format(seconds=0.001), "--isolation-compare=main", *options)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [f"*{NODEID}: beside the baseline: median *, was 525 ms (×*", "*a stored baseline holds the speed*"]
    )


def test_what_is_slower_fails_in_ci(suite, pytester):
    """As a failed test, so that every reporter has it."""
    store(pytester, 0.0001)
    result = suite(TEST.format(seconds=0.002), "--isolation-compare=main", "--isolation-budget", "--junit-xml=j.xml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [f"{NODEID}: SLOWER than the baseline: median *", f"FAILED isolation_compare::{NODEID} - *"]
    )
    assert 'failures="1"' in (pytester.path / "j.xml").read_text()


def test_what_is_slower_is_said_outside_of_ci(suite, pytester):
    """At a desk it may have many reasons."""
    store(pytester, 0.0001)
    result = suite(TEST.format(seconds=0.002), "--isolation-compare=main")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"*{NODEID}: SLOWER than the baseline: *"])


def test_nothing_fails_by_the_baseline_of_another_machine(suite, pytester):
    """And what differs is named."""
    store(pytester, 0.0001, cpu="a faster one")
    result = suite(TEST.format(seconds=0.002), "--isolation-compare=main", "--isolation-budget")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*'main' is of another machine, so nothing fails by it: cpu was a faster one, is *"])


def test_a_new_test_is_named(suite, pytester):
    """Nothing was compared, and that is said."""
    store(pytester, 0.001)
    path = pytester.path / ".isolation" / "main.json"
    path.write_text(path.read_text().replace("test_it.py::test_it", "test_it.py::test_other"))
    result = suite(TEST.format(seconds=0), "--isolation-compare=main", "--isolation-budget")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"*{NODEID}: new, there is nothing to compare it with"])


def test_comparing_nothing_is_said(suite, pytester):
    """A session without a sample compares nothing, and does not look as if it had."""
    store(pytester, 0.001)
    result = suite("def test(): pass", "--isolation-compare=main", "--isolation-budget")
    result.stdout.fnmatch_lines(["*nothing was compared with the baseline 'main': no test of this session measured*"])


def test_a_session_that_stores_nothing_says_so(suite, pytester):
    """And makes no file."""
    result = suite("def test(): pass", "--isolation-save=main")
    result.stdout.fnmatch_lines(["nothing is stored as 'main': no test of this session measured*"])
    assert not (pytester.path / ".isolation").exists()


@pytest.mark.parametrize("name", ["../other", "a/b", "", ".hidden", "a b"])
@pytest.mark.parametrize("option", ["--isolation-save", "--isolation-compare"])
def test_a_name_that_is_none_is_refused(suite, option, name):
    """It becomes the name of a file."""
    result = suite("def test(): pass", f"{option}={name}")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*{option}: '{name}' is not possible; it takes a name of letters, digits*"])


def test_a_baseline_that_is_not_there_is_refused_at_once(suite, pytester):
    """Not after an hour of tests."""
    store(pytester, 0.1)
    result = suite("def test(): pass", "--isolation-compare=mian")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*there is no baseline 'mian' (*mian.json; there are: main); make one with *"])


def test_both_at_once_compare_with_what_was_there_before(suite, pytester):
    """As in a nightly run that moves its own baseline on."""
    store(pytester, 0.0001)
    options = ("--isolation-compare=main", "--isolation-save=main", "--isolation-budget")
    assert suite(TEST.format(seconds=0.002), *options).ret == 1
    assert median(stored(pytester)["samples"][NODEID][""]) > 0.001


def test_samples_of_all_workers_are_stored_and_compared(suite, pytester):
    """Under pytest-xdist."""
    source = (
        TEST.format(seconds=0.0002)
        + "\n    @pytest.mark.latency(p95_ms=100)\n    def test_two():\n        work(0.0002)\n"
    )
    suite(source, "--isolation-save=main", "-n2")
    assert sorted(stored(pytester)["samples"]) == [NODEID, "test_it.py::test_two"]
    store(pytester, 0.00001)
    result = suite(source, "--isolation-compare=main", "--isolation-budget", "-n1")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"FAILED isolation_compare::{NODEID} - *"])


def test_an_interrupted_session_keeps_what_it_has(suite, pytester):
    """The tests that had got to their end."""
    source = TEST.format(seconds=0) + "\n    def test_two():\n        raise KeyboardInterrupt\n"
    with pytest.raises(KeyboardInterrupt):
        suite(source, "--isolation-save=main")
    assert list(stored(pytester)["samples"]) == [NODEID]


def test_a_folder_that_cannot_be_written_is_said(suite, pytester):
    """And the exit code is one of wrong usage."""
    (pytester.path / ".isolation").write_text("a file")
    result = suite(TEST.format(seconds=0), "--isolation-save=main")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*the baseline was not stored: *"])
