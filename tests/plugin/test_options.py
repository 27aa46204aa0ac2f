"""Command line before environment before ini file."""

import pytest

from pytest_isolation.markers import ISOLATION_KEYWORDS, LATENCY_KEYWORDS

SOURCE = """
    import pytest
    seen = []
    @pytest.mark.asyncio
    @pytest.mark.isolationMARK
    async def test(user):
        seen.append(user.index)
        user.observe(user.id)
    def test_counts(): print(f"crowd={max(seen) + 1}")
"""


def crowd(result):
    return int(next(line for line in result.outlines if "crowd=" in line).split("crowd=")[1])


@pytest.mark.parametrize(
    ("mark", "option", "variable", "ini", "expected"),
    [
        ("", (), "", "", 100),
        ("(users=5)", (), "", "", 5),
        ("", (), "", "isolation_users = 7", 7),
        ("(users=5)", (), "", "isolation_users = 7", 5),
        ("(users=5)", (), "9", "isolation_users = 7", 9),
        ("(users=5)", ("--isolation-users=11",), "9", "isolation_users = 7", 11),
    ],
)
def test_how_many_users_play(suite, monkeypatch, mark, option, variable, ini, expected):
    """The ini value stands in for markers that do not say; the other two override them."""
    monkeypatch.setenv("ISOLATION_USERS", variable)
    assert crowd(suite(SOURCE.replace("MARK", mark), "-s", *option, ini=ini)) == expected


def test_every_setting_works_from_the_ini_file(suite, pytester):
    """Flags, numbers, texts and lists."""
    result = suite(
        """
        import pytest
        @pytest.mark.latency(p95_ms=500)
        def test(): pass
        """,
        ini="""
        isolation_budget = true
        isolation_seed = 77
        isolation_max_seconds = 2.5
        isolation_max_samples = 200
        isolation_undecided = fail
        isolation_report =
            a.json
            b.json
        """,
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*over / allowed*", "*(seed 77)"])
    assert (pytester.path / "b.json").exists()


@pytest.mark.parametrize("table", ["tool.pytest", "tool.pytest.ini_options"])
def test_every_setting_works_from_pyproject(pytester, table):
    """Native TOML values, and texts."""
    native = table == "tool.pytest"
    pytester.makepyprojecttoml(
        f"""
        [{table}]
        asyncio_default_fixture_loop_scope = "function"
        isolation_budget = {"true" if native else '"true"'}
        isolation_seed = {77 if native else '"77"'}
        isolation_max_seconds = {"2.5" if native else '"2.5"'}
        isolation_users = {3 if native else '"3"'}
        isolation_report = ["a.json"]
        """
    )
    pytester.makepyfile("import pytest\n@pytest.mark.latency(p95_ms=500)\ndef test(): pass")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*over / allowed*", "*(seed 77)"])
    assert (pytester.path / "a.json").exists()


@pytest.mark.parametrize("value", ["1", "true", "yes", "on"])
def test_ci_mode_can_be_set_in_the_environment(suite, monkeypatch, value):
    """As CI systems do."""
    monkeypatch.setenv("ISOLATION_BUDGET", value)
    result = suite("import pytest\n@pytest.mark.latency(p95_ms=500)\ndef test(): pass")
    result.stdout.fnmatch_lines(["*over / allowed*"])


@pytest.mark.parametrize("value", ["0", "false", "no", "off"])
def test_ci_mode_can_be_switched_off_in_the_environment(suite, monkeypatch, value):
    """Against an ini file that has it on."""
    monkeypatch.setenv("ISOLATION_BUDGET", value)
    result = suite("import pytest\n@pytest.mark.latency(p95_ms=500)\ndef test(): pass", ini="isolation_budget = true")
    result.stdout.no_fnmatch_line("*over / allowed*")


def test_help_names_every_option(suite):
    """With its meaning."""
    result = suite("", "--help")
    for option in (
        "budget",
        "backend=MODULE:FACTORY",
        "users=N",
        "seed=N",
        "max-seconds=S",
        "replay=TOKEN",
        "report=PATH",
    ):
        result.stdout.fnmatch_lines([f"*--isolation-{option}*"])


def test_the_markers_are_known_to_strict_suites(suite):
    """Registered always, with what they mean."""
    result = suite("import pytest\n@pytest.mark.latency(p95_ms=500)\ndef test(): pass", "--strict-markers")
    result.assert_outcomes(passed=1)
    markers = suite("", "--markers")
    markers.stdout.fnmatch_lines(["@pytest.mark.latency(*", "@pytest.mark.isolation(*"])
    said = markers.stdout.str()
    assert all(word.removesuffix("_ms") in said for word in (*LATENCY_KEYWORDS, *ISOLATION_KEYWORDS))
