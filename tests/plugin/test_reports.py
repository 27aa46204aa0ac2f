"""What a session leaves behind for machines and for people."""

import json
from importlib.resources import files

import jsonschema
import pytest

SCHEMA = json.loads((files("pytest_isolation.reports") / "schema" / "report-1.json").read_text())
SOURCE = """
    import anyio, pytest, time
    pytestmark = pytest.mark.asyncio
    @pytest.mark.latency(p50_ms=400, p95_ms=500, max_ms=600)
    async def test_fast(): pass
    @pytest.mark.latency(span="part", p95_ms=0.000001)
    async def test_slow(latency):
        with latency.span("part"): pass
    @pytest.mark.latency(p95_ms=500)
    async def test_undecided(): await anyio.sleep(0.02)
    last = None
    @pytest.mark.isolation(users=5)
    async def test_leak(user):
        global last
        last = user.secret("note")
        await anyio.sleep(0)
        user.observe({"note": last})
    @pytest.mark.isolation(users=5)
    async def test_failing(user):
        global last
        last = user
        await anyio.sleep(0)
        user.observe(user.id)
        assert last is user
"""


@pytest.fixture
def report(suite, pytester):
    """The JSON report of the suite above."""
    suite(SOURCE, "--isolation-report=r.json", "--isolation-seed=3", "--isolation-max-seconds=0.2")
    return json.loads((pytester.path / "r.json").read_text())


def test_the_report_is_valid(report):
    """Against the schema that is published with the package."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(report, SCHEMA)


def test_the_report_says_what_was_proven(report):
    """Verdicts with their evidence, findings with their place and token."""
    results = {r["nodeid"].rpartition("::")[2]: r for r in report["results"]}
    assert [v["outcome"] for v in results["test_fast"]["verdicts"]] == ["pass"] * 3
    [slow] = results["test_slow"]["verdicts"]
    assert (slow["outcome"], slow["budget"]["span"], slow["over"]) == ("fail", "part", slow["samples"])
    assert slow["log_e_over"] > 9
    assert results["test_undecided"]["verdicts"][0]["outcome"] == "undecided"
    leak = results["test_leak"]["findings"][0]
    assert leak == {
        "kind": "leak",
        "user": "user-00",
        "phase": "crowd of 5 users, seed 3",
        "summary": "user-00 received the secret 'note' of user-04",
        "channel": "response, at $.note",
        "expected": "<note of user-00>",
        "seen": "<note of user-04>",
        "replay": "crowd:5:3",
        "steps": "",
        "kept_by": "",
        "confidence": "proven",
    }
    assert {(f["kind"], f["confidence"]) for f in results["test_failing"]["findings"]} == {("failed", "different")}
    assert results["test_leak"]["phases"][0]["runs"] == 5


def test_the_report_says_what_it_was_made_on(report):
    """A verdict means little without it."""
    environment = report["environment"]
    assert report["seed"] == 3
    assert environment["packages"]["pytest"] == pytest.__version__
    assert environment["packages"]["pytest-isolation"]


def test_several_reports_can_be_written(suite, pytester):
    """The option may be repeated; folders are made."""
    suite(SOURCE, "--isolation-report=a.json", "--isolation-report=b/c.json", "-k", "fast")
    assert (pytester.path / "a.json").exists()
    assert (pytester.path / "b" / "c.json").exists()


def test_a_report_that_cannot_be_written_is_an_error(suite, pytester):
    """A green run without the report that was asked for would be a lie."""
    (pytester.path / "file").write_text("")
    result = suite(SOURCE, "--isolation-report=file/r.json", "-k", "fast")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*ERROR: the report was not written: *file*"])


def test_a_report_without_marked_tests_is_still_written(suite, pytester):
    """CI expects the file."""
    suite("def test(): pass", "--isolation-report=r.json")
    assert json.loads((pytester.path / "r.json").read_text())["results"] == []


def test_no_secret_of_a_user_is_printed(suite):
    """Canaries are called by their names."""
    result = suite(SOURCE)
    assert "cnryx" not in "\n".join(line for line in result.outlines if not line.startswith("E  "))


def test_without_ci_mode_there_is_one_line(suite):
    """And the table only where it is asked for."""
    result = suite(SOURCE, "-k", "fast")
    result.stdout.fnmatch_lines(["*= isolation =*", "3 budgets: 3 within (seed *)"])
    result.stdout.no_fnmatch_line("*over / allowed*")


def test_a_suite_without_marked_tests_shows_nothing(suite):
    """Off means silent."""
    result = suite("def test(): pass", "--isolation-budget")
    result.stdout.no_fnmatch_line("*= isolation =*")


def test_the_path_in_the_ini_file_is_that_from_the_root_of_the_project(suite, pytester, monkeypatch):
    """Wherever pytest is started."""
    pytester.makefile(
        ".ini",
        pytest="[pytest]\nisolation_report = out/report.json\naddopts = -p no:cacheprovider\nasyncio_default_fixture_loop_scope = function",
    )
    folder = pytester.mkdir("folder")
    pytester.makepyfile(**{"folder/test_below": "import pytest\n@pytest.mark.latency(p95_ms=500)\ndef test(): pass"})
    monkeypatch.chdir(folder)
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert (pytester.path / "out" / "report.json").exists()
