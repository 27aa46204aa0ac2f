"""--isolation-compare-rev: the same tests of an earlier revision, in a process of its own, in turn."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import psutil
import pytest

SHOP = """
    from time import thread_time

    def work():
        end = thread_time() + {seconds}
        while thread_time() < end:
            pass
"""
TESTS = """
    import anyio, pytest, shop

    {mark}
    @pytest.mark.latency(p95_ms=500)
    async def test_async():
        await anyio.sleep(0)
        shop.work()

    @pytest.mark.latency(p95_ms=500)
    def test_sync():
        shop.work()
"""
ANYIO = TESTS.format(mark="@pytest.mark.anyio")
CONFTEST = """
    import pytest

    @pytest.fixture
    def anyio_backend():
        return "asyncio"
"""
FAST, SLOW = SHOP.format(seconds=0.0005), SHOP.format(seconds=0.0008)
STEADY = SHOP.format(seconds=0.003)  # so long that what a busy core adds around it is no tenth of it
INI = "[pytest]\naddopts = -p no:cacheprovider -p no:hypothesispytest -p no:benchmark\nasyncio_default_fixture_loop_scope = function\n"


@pytest.fixture
def project(pytester, monkeypatch):
    """A repository with a commit for each set of files; the last one is not committed."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "A")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example")

    def git(*words):
        subprocess.run(("git", *words), cwd=pytester.path, check=True, capture_output=True)

    def make(*revisions, folder="."):
        git("init", "--quiet")
        for number, files in enumerate(revisions):
            for name, text in {"pytest.ini": INI, "conftest.py": CONFTEST, **files}.items():
                path = pytester.path / folder / name
                if text is None:
                    path.unlink()
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(textwrap.dedent(text))
            if number < len(revisions) - 1:
                git("add", "--all")
                git("commit", "--quiet", "--message", "revision")
        return pytester.path / folder

    return make


@pytest.fixture
def run(pytester, monkeypatch):
    """pytest as it is typed: in a process of its own, so that nothing traces only one of the two."""
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(folder, *options, revision="HEAD", seconds=0.4):
        limit = f"--isolation-max-seconds={seconds}"
        command = [sys.executable, "-m", "pytest", f"--isolation-compare-rev={revision}", limit]
        return pytester.run(*command, "--rootdir", folder, folder, *options)

    return run


@pytest.fixture
def refused(pytester):
    """pytest in this process, which ends before it has measured anything."""

    def run(folder, *options, revision="HEAD"):
        result = pytester.runpytest_inprocess(
            f"--isolation-compare-rev={revision}", "--rootdir", folder, folder, *options
        )
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        return result.stderr

    return run


def worktrees(folder):
    """What git knows of, and what is left in the temporary folder."""
    listed = subprocess.run(["git", "worktree", "list"], cwd=folder, check=True, capture_output=True, text=True)
    return len(listed.stdout.splitlines())


def comparisons(path):
    return {
        each["name"].split(" since ")[0]: each
        for result in json.loads(path.read_text())["results"]
        for each in result["comparisons"]
    }


def test_what_became_slower_fails(project, run, pytester):
    """Async or not; the report says by how much, and since when."""
    folder = project({"shop.py": FAST, "test_it.py": ANYIO}, {"shop.py": SLOW})
    result = run(folder, "--isolation-report=report.json", seconds=10)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*SLOWER  test_async since HEAD (*) takes * times as long as before *"])
    result.stdout.fnmatch_lines(["*SLOWER  test_sync since HEAD (*) takes * times as long as before *"])
    for name in ("test_async", "test_sync"):
        assert comparisons(pytester.path / "report.json")[name]["ratio"] > 1.1  # 1.6 on a machine of one's own
    assert worktrees(folder) == 1


@pytest.mark.parametrize("mode", ["strict", pytest.param("auto", marks=pytest.mark.soak)])
def test_what_is_as_fast_passes(project, run, mode, pytester):
    """A change beside it makes no difference."""
    mark = "@pytest.mark.asyncio" if mode == "strict" else ""
    files = {"shop.py": STEADY, "test_it.py": TESTS.format(mark=mark)}
    result = run(project(files, {"other.py": "x = 1"}), f"--asyncio-mode={mode}", "--isolation-report=report.json")
    result.assert_outcomes(passed=2)
    assert {c["outcome"] for c in comparisons(pytester.path / "report.json").values()} <= {"pass", "undecided"}


@pytest.mark.soak
def test_what_became_faster_passes(project, run):
    result = run(project({"shop.py": SLOW, "test_it.py": ANYIO}, {"shop.py": FAST}), seconds=2)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*NO SLOWER  test_sync since HEAD (*) takes 0.* times as long as before*"])


@pytest.mark.soak
def test_each_span_with_a_budget_is_compared(project, run, pytester):
    """And not what is around it."""
    test = """
        import pytest, shop

        @pytest.mark.latency(span="work", p95_ms=500)
        def test_it(latency):
            sum(range({around}))
            with latency.span("work"):
                shop.work()
    """
    old = {"shop.py": FAST, "test_it.py": test.format(around=10)}
    result = run(project(old, {"test_it.py": test.format(around=50_000)}), "--isolation-report=report.json", seconds=2)
    result.assert_outcomes(passed=1)
    [(name, comparison)] = comparisons(pytester.path / "report.json").items()
    assert name == "test_it [work]"
    assert comparison["ratio"] == pytest.approx(1, abs=0.2)


@pytest.mark.soak
@pytest.mark.soak
def test_a_source_folder_is_taken_from_the_revision(project, run, monkeypatch, pytester):
    """Also where it is only in the path of this process, as an editable install puts it."""
    old = {"src/shop.py": FAST, "tests/test_it.py": ANYIO}
    folder = project(old, {"src/shop.py": SLOW})
    (folder / "conftest.py").write_text(
        f"import sys; sys.path.insert(0, {str(folder / 'src')!r})\n" + textwrap.dedent(CONFTEST)
    )
    result = run(folder / "tests", "--rootdir", folder, seconds=10)
    result.assert_outcomes(failed=2)


def test_the_same_code_on_both_sides_is_a_failure(project, run):
    """It would be no slower than itself."""
    old = {"src/shop.py": FAST, "test_it.py": ANYIO}
    folder = project(old, {})
    path = f"import sys; sys.path.insert(0, {str(folder / 'src')!r})\n"
    for text in (path + textwrap.dedent(CONFTEST),):
        (folder / "conftest.py").write_text(text)
        subprocess.run(["git", "commit", "-qam", "a path of this machine"], cwd=folder, check=True)
    result = run(folder)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*import shop from *, so both sides would be the same code.*"])


@pytest.mark.soak
def test_a_new_test_is_judged_and_not_compared(project, run):
    """A note says so; the others are compared."""
    new = "import pytest\n\n@pytest.mark.latency(p95_ms=500)\ndef test_new(): sum(range(100))\n"
    result = run(project({"shop.py": FAST, "test_it.py": ANYIO}, {"test_new.py": new}))
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_new: not compared with HEAD (*): it is new: HEAD (*) has no such test"])


@pytest.mark.soak
def test_a_test_that_fails_in_the_revision_is_not_compared(project, run):
    """A note says how; those after it are compared."""
    test = """
        import pytest, shop

        @pytest.mark.latency(p95_ms=500)
        def test_first():
            assert shop.works, "it did not work"

        @pytest.mark.latency(p95_ms=500)
        def test_second():
            shop.work()
    """
    folder = project(
        {"shop.py": f"works = False\n{textwrap.dedent(FAST)}", "test_it.py": test},
        {"shop.py": f"works = True\n{textwrap.dedent(FAST)}"},
    )
    result = run(folder)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_first: not compared with HEAD (*): in HEAD (*) it fails: *it did not work*"])
    result.stdout.fnmatch_lines(["*1 comparison: 0 slower*"])


@pytest.mark.soak
def test_a_fixture_that_fails_in_the_revision_is_said(project, run):
    test = """
        import pytest, shop

        @pytest.fixture
        def stock():
            assert shop.works
            yield

        @pytest.mark.latency(p95_ms=500)
        def test_first(stock):
            pass

        @pytest.mark.latency(p95_ms=500)
        def test_second():
            pass
    """
    result = run(project({"shop.py": "works = False", "test_it.py": test}, {"shop.py": "works = True"}))
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_first: not compared with HEAD (*): in HEAD (*) it fails: *assert*"])


@pytest.mark.soak
def test_a_test_that_is_skipped_here_keeps_the_order(project, run):
    """The process of the revision passes it over, with the fixtures that go with it."""
    test = """
        import pytest, shop

        @pytest.fixture(scope="module")
        def stock():
            yield

        @pytest.mark.latency(p95_ms=500)
        def test_first(stock):
            pass

        @pytest.mark.latency(p95_ms=500)
        def test_second(stock):
            {skip}

        @pytest.mark.latency(p95_ms=500)
        def test_third(stock):
            shop.work()
    """
    old = {"shop.py": FAST, "test_it.py": test.format(skip="pass")}
    result = run(project(old, {"test_it.py": test.format(skip="pytest.skip('not today')")}))
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["*2 comparisons: 0 slower*"])


def test_a_revision_without_any_of_the_tests_compares_nothing_and_fails(project, run):
    """Green would mean that something was compared."""
    result = run(project({"shop.py": FAST}, {"test_it.py": ANYIO}))
    assert result.ret == 1
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*ERROR: nothing was compared with HEAD (*): only bodies with*"])


def test_a_revision_that_cannot_be_collected_says_why(project, run):
    """With the last lines of its session."""
    result = run(project({"shop.py": "1 / 0", "test_it.py": ANYIO}, {"shop.py": FAST}))
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*the process of HEAD (*) cannot be asked: it has ended. It said last:*"])
    result.stdout.fnmatch_lines(["*ZeroDivisionError*"])


@pytest.mark.soak
def test_tests_of_other_kinds_are_left_alone(project, run):
    """Scenarios, paced tests and those without a budget run here only."""
    test = """
        import time, pytest, shop

        @pytest.mark.latency(p95_ms=500)
        def test_budget():
            shop.work()

        @pytest.mark.anyio
        @pytest.mark.latency(p50_ms=500, concurrency=2)
        async def test_several():
            pass

        @pytest.mark.isolation(users=3)
        def test_scenario(user):
            time.sleep(0.01)
            user.observe({"id": user.id})

        def test_plain():
            pass
    """
    result = run(project({"shop.py": FAST, "test_it.py": test}, {}))
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*1 comparison: 0 slower*"])


@pytest.mark.soak
def test_a_body_that_samples_a_part_of_itself_is_not_compared(project, run):
    """It is judged as ever."""
    test = """
        import pytest, shop

        @pytest.mark.latency(p95_ms=500)
        def test_part(latency):
            latency.measure_sync(shop.work)

        @pytest.mark.latency(p95_ms=500)
        def test_whole():
            shop.work()
    """
    result = run(project({"shop.py": FAST, "test_it.py": test}, {}))
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_part: not compared with HEAD (*)*it samples a part of itself*"])


@pytest.mark.soak
def test_reports_and_baselines_are_written_by_this_session_alone(project, run, pytester):
    """The options go to both processes."""
    folder = project({"shop.py": FAST, "test_it.py": ANYIO}, {})
    junit, report = pytester.path / "junit.xml", pytester.path / "report.json"
    run(folder, "--junitxml", junit, f"--isolation-report={report}", "--isolation-save=main").assert_outcomes(passed=2)
    assert "skipped" not in junit.read_text().replace('skipped="0"', "")
    assert len(comparisons(report)) == 2


@pytest.mark.parametrize(
    "revision, said",
    [
        ("nowhere", "git knows no such commit in *; name a branch, a tag or a hash, such as main or HEAD~1"),
        ("--all", "git knows no such commit"),
        (" ", "what git takes for a commit, such as main or HEAD~1"),
    ],
)
def test_a_revision_that_is_none_is_refused(project, refused, revision, said):
    folder = project({"shop.py": FAST, "test_it.py": ANYIO}, {})
    refused(folder, revision=revision).fnmatch_lines([f"*{said}*"])


def test_without_a_repository_it_is_refused(pytester, refused):
    refused(pytester.path).fnmatch_lines(["*--isolation-compare-rev: git rev-parse: *not a git repository*"])


def test_with_several_workers_it_is_refused(project, refused):
    """They would run beside what is measured in turn."""
    refused(project({"shop.py": FAST, "test_it.py": ANYIO}, {}), "-n", "2").fnmatch_lines(
        ["*with -n others run beside; take -n 0*"]
    )


def test_ctrl_c_ends_the_other_process_and_removes_its_files(project, pytester, tmp_path_factory):
    """And what was measured until then is shown."""
    folder, temporary = project({"shop.py": FAST, "test_it.py": ANYIO}, {}), tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "pytest", "--isolation-compare-rev=HEAD", "--isolation-max-seconds=60", "-s"]
    process = subprocess.Popen(
        [*command, "--basetemp", temporary / "base"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        other = beside(process)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert not other.is_running()
    assert worktrees(folder) == 1
    assert not list(temporary.glob("pytest-isolation-*"))
    assert "interrupted; what was measured until then counts" in out


@pytest.mark.soak
def test_the_other_process_ends_with_a_session_that_was_killed(project):
    """Nobody else would end it."""
    folder = project({"shop.py": FAST, "test_it.py": ANYIO}, {})
    command = [sys.executable, "-m", "pytest", "--isolation-compare-rev=HEAD", "--isolation-max-seconds=60"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE)
    other = beside(process)
    process.kill()
    process.communicate()
    psutil.wait_procs([other], timeout=20)
    assert not other.is_running()


def beside(process):
    """The process of the revision."""
    for _ in range(2000):
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.NoSuchProcess):  # git, which is gone
                if "--maxfail=0" in child.cmdline():
                    return child
        time.sleep(0.01)
    raise AssertionError("there is none")
