"""A mistake is named at collection: the test, what is wrong, and the nearest right spelling."""

import textwrap

import pytest

LATENCY = {
    "p95=10": "there is no such keyword; did you mean 'p95_ms'?",
    "p95_s=10": "there is no such keyword; did you mean 'p95_ms'?",
    "max=10": "there is no such keyword; did you mean 'max_ms'?",
    "spam=1": "latency(spam=…): there is no such keyword",
    "p0_ms=1": "there is no such quantile; from p1_ms to p99_ms",
    "p990_ms=1": "there is no such quantile; from p1_ms to p99_ms",
    "p05_ms=1": "there is no such quantile; from p1_ms to p99_ms",
    "p100_ms=1": "there is no such quantile",
    "p955_ms=1": "there is no such quantile",
    "p95_ms=0": "it takes a number > 0 of milliseconds, as in p95_ms=10",
    "p95_ms=-1": "it takes a number > 0 of milliseconds",
    "p95_ms='10'": "latency(p95_ms='10'): it takes a number > 0",
    "p95_ms=True": "it takes a number > 0",
    "p95_ms=float('nan')": "it takes a number > 0",
    "p95_ms=float('inf')": "it takes a number > 0",
    "10": "latency(10) does not say which quantile: latency(p95_ms=10)",
    "": "latency() has no budget: say what it must keep, as in latency(p95_ms=10)",
    "span='a'": "latency(span='a') has no budget",
    "span='', p95_ms=1": "a span is named by a text: span='agent.create'",
    "span=3, p95_ms=1": "a span is named by a text",
    "p50_ms=20, p95_ms=10": "p50_ms must be the smaller one",
    "p95_ms=20, max_ms=10": "p95_ms must be the smaller one",
    "p95_ms=10, rate=0": "it takes a number > 0 of arrivals a second",
    "p95_ms=10, rate=5": "latency(rate=…) needs an async test",
    "p999_ms=10": "p99.9 takes at least 6,120 samples, and at most 2,000 are taken; run with --isolation-max-samples=6120",
}
ISOLATION = {
    "user=5": "there is no such keyword; did you mean 'users'?",
    "5": "isolation(5) takes keywords: isolation(users=5)",
    "users=0": "a whole number ≥ 1 of users plays",
    "users=2.5": "a whole number ≥ 1",
    "users=True": "a whole number ≥ 1",
    "users='5'": "a whole number ≥ 1",
    "anonymous=2": "it takes the share of the crowd that has no credentials, from 0 to 1",
    "anonymous=True": "as in anonymous=0.25",
    "anonymous='half'": "from 0 to 1",
    "heap=1": "True makes whatever keeps secrets in memory a finding, False does not look",
    "anonymos=0.5": "did you mean 'anonymous'?",
}


def assert_refused(result, nodeid, message):
    """The whole run is refused before a test runs, with pytest's exit code for wrong usage."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = "\n".join(result.errlines + result.outlines)
    assert f"pytest-isolation: {nodeid}: " in text
    assert message in " ".join(text.split())
    assert "INTERNALERROR" not in text
    assert "passed" not in text


@pytest.mark.parametrize("arguments", LATENCY)
def test_a_wrong_latency_marker_is_refused(suite, arguments):
    """By name, value, order and place."""
    result = suite(
        f"""
        import pytest
        @pytest.mark.latency({arguments})
        def test_one(): pass
        """
    )
    assert_refused(result, "test_it.py::test_one", LATENCY[arguments])


@pytest.mark.parametrize("arguments", ISOLATION)
def test_a_wrong_isolation_marker_is_refused(suite, arguments):
    """By name and value."""
    result = suite(
        f"""
        import pytest
        @pytest.mark.isolation({arguments})
        def test_one(user): pass
        """
    )
    assert_refused(result, "test_it.py::test_one", ISOLATION[arguments])


PLACES = {
    "no user": (
        "def test_one(tmp_path): pass",
        "takes the `user` fixture: def test_one(user, tmp_path)",
    ),
    "no user in a method": (
        """
        class TestIt:
            @pytest.mark.isolation
            def test_one(self): pass
        """,
        "takes the `user` fixture: def test_one(user)",
    ),
    "another user": (
        """
        @pytest.fixture
        def user(): return 1
        @pytest.mark.isolation
        def test_one(user): pass
        """,
        "the fixture `user` is overridden in test_it; rename that one",
    ),
    "a fixture that takes the user": (
        """
        @pytest.fixture
        def token(user): return user.id
        @pytest.mark.isolation
        def test_one(user, token): pass
        """,
        "the fixture `token` takes `user`, but pytest makes it once for the whole crowd",
    ),
    "unittest": (
        """
        import unittest
        class TestIt(unittest.TestCase):
            @pytest.mark.latency(p95_ms=1)
            def test_one(self): pass
        """,
        "unittest runs the methods of TestIt by itself, so nothing would be measured",
    ),
    "async unittest": (
        """
        import unittest
        class TestIt(unittest.IsolatedAsyncioTestCase):
            @pytest.mark.latency(p95_ms=1)
            async def test_one(self): pass
        """,
        "unittest runs the methods of TestIt by itself, so nothing would be measured",
    ),
    "hypothesis": (
        """
        from hypothesis import given, strategies as st
        @pytest.mark.latency(p95_ms=1)
        @given(st.integers())
        def test_one(n): pass
        """,
        "@given already repeats the body",
    ),
    "subtests": (
        """
        @pytest.mark.latency(p95_ms=1)
        def test_one(subtests): pass
        """,
        "every repetition would report its sub-tests again",
    ),
    "async generator": (
        """
        @pytest.mark.latency(p95_ms=1)
        async def test_one(): yield
        """,
        "the body is a generator, which pytest does not run",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_marker_in_a_place_where_it_cannot_work_is_refused(suite, place):
    """Where the body cannot be repeated, is never called by pytest, or all users would be one."""
    source, message = PLACES[place]
    source = textwrap.dedent(source)
    if "@" not in source:
        source = f"@pytest.mark.isolation\n{source}"
    result = suite(f"import pytest\n{source}")
    name = "test_it.py::TestIt::test_one" if "class TestIt" in source else "test_it.py::test_one"
    assert_refused(result, name, message)


def test_an_item_that_is_no_function_is_refused(suite, pytester):
    """There is no body to run."""
    pytester.makeconftest(
        """
        import pytest
        class Item(pytest.Item):
            def runtest(self): pass
        class File(pytest.File):
            def collect(self):
                item = Item.from_parent(self, name="one")
                item.add_marker(pytest.mark.latency(p95_ms=1))
                yield item
        def pytest_collect_file(parent, file_path):
            if file_path.suffix == ".yaml":
                return File.from_parent(parent, path=file_path)
        """
    )
    pytester.makefile(".yaml", tests="")
    assert_refused(suite("def test(): pass"), "tests.yaml::one", "Item is no test function")


def test_pytest_run_parallel_is_refused(suite, pytester):
    """It puts a synchronous function in the place of the body."""
    pytester.makeconftest(
        "def pytest_addoption(parser): parser.addoption('--parallel-threads', dest='parallel_threads')"
    )
    result = suite("import pytest\n@pytest.mark.latency(p95_ms=1)\ndef test_one(): pass", "--parallel-threads=4")
    assert_refused(result, "test_it.py::test_one", "run with --parallel-threads=1")


@pytest.mark.parametrize("marker", ["parallel_threads(4)", "iterations(3)"])
def test_the_markers_of_pytest_run_parallel_are_refused_too(suite, pytester, marker):
    """They do the same for one test."""
    pytester.makeconftest(
        """
        def pytest_configure(config):
            for name in ("parallel_threads", "iterations"):
                config.addinivalue_line("markers", f"{name}(n): of pytest-run-parallel")
        """
    )
    source = f"import pytest\n@pytest.mark.{marker}\n@pytest.mark.latency(p95_ms=1)\ndef test_one(): pass"
    assert_refused(suite(source), "test_it.py::test_one", f"pytest-run-parallel replaces the body ({marker})")


def test_all_mistakes_are_named_at_once(suite):
    """Not one a run."""
    result = suite(
        """
        import pytest
        @pytest.mark.latency(p95=1)
        def test_one(): pass
        @pytest.mark.latency(p99=1)
        def test_two(): pass
        """
    )
    assert_refused(result, "test_it.py::test_one", "did you mean 'p95_ms'?")
    assert_refused(result, "test_it.py::test_two", "did you mean 'p99_ms'?")


def test_a_test_that_is_not_selected_is_not_judged(suite):
    """Somebody else's mistake does not stop my one test."""
    result = suite(
        """
        import pytest
        @pytest.mark.latency(p95=1)
        def test_one(): pass
        def test_two(): pass
        """,
        "-k",
        "two",
    )
    result.assert_outcomes(passed=1, deselected=1)


def test_a_mistake_is_named_under_xdist_too(suite):
    """Workers collect; the controller shows it."""
    result = suite("import pytest\n@pytest.mark.latency(p95=1)\ndef test_one(): pass", "-n", "1")
    text = "\n".join(result.errlines + result.outlines)
    assert result.ret != 0
    assert "test_it.py::test_one: latency(p95=…): there is no such keyword; did you mean 'p95_ms'?" in text


OPTIONS = {
    "--isolation-users=0": "--isolation-users: '0' is not possible; it takes a whole number ≥ 1",
    "--isolation-users=many": "'many' is not possible",
    "--isolation-seed=-1": "it takes a whole number ≥ 0",
    "--isolation-max-seconds=0": "it takes a number of seconds > 0",
    "--isolation-max-seconds=soon": "it takes a number of seconds > 0",
    "--isolation-max-samples=3": "it takes a whole number ≥ 20",
    "--isolation-undecided=maybe": "it takes warn or fail",
    "--isolation-backend=shop": "it takes MODULE:FACTORY, for example shop.backend:create",
    "--isolation-backend=shop:": "it takes MODULE:FACTORY",
    "--isolation-report=x.html": "it takes a path that ends in .json",
    "--isolation-report=folder.json": "is a folder; name a file in it: folder.json/isolation.json",
    "--isolation-replay=crowd": "'crowd' is no replay token: the form is crowd:USERS:SEED",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_wrong_option_is_refused_before_anything_is_collected(suite, pytester, option):
    """What was wrong, and the right form."""
    pytester.mkdir("folder.json")
    result = suite("def test(): pass", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert OPTIONS[option] in "\n".join(result.errlines)


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        ("isolation_users = 0", "isolation_users in the ini file: 0 is not possible"),
        ("isolation_users = many", "isolation_users in the ini file: "),
        ("isolation_undecided = maybe", "isolation_undecided in the ini file: 'maybe' is not possible"),
        ("isolation_budget = maybe", "isolation_budget in the ini file: "),
    ],
)
def test_a_wrong_ini_value_is_refused(suite, ini, message):
    """With its name and where it stands."""
    result = suite("def test(): pass", ini=ini)
    assert result.ret != 0
    assert message in "\n".join(result.errlines + result.outlines)


def test_a_wrong_environment_variable_is_refused(suite, monkeypatch):
    """With its name."""
    monkeypatch.setenv("ISOLATION_USERS", "many")
    result = suite("def test(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ISOLATION_USERS: 'many' is not possible" in "\n".join(result.errlines)


BACKENDS = {
    "nowhere:create": "'nowhere:create': there is no module 'nowhere' to import",
    "shop.nowhere:create": "there is no module 'shop.nowhere' to import",
    "shop:creat": "shop has no 'creat'; did you mean 'create'?",
    "shop:NUMBER": "which cannot be called; name a function that makes the backend",
    "shop:broken": "shop:broken() raised ValueError: no database",
    "shop:later": "shop:later() is async",
    "shop:partial": "shop:partial() made a Partial, which lacks aclose, request, connect",
    "needy:create": "importing it failed: No module named 'not_installed'",
    "faulty:create": "importing it failed: ZeroDivisionError: division by zero",
}


@pytest.mark.parametrize("target", BACKENDS)
def test_a_backend_that_cannot_be_made_is_refused_before_anything_is_collected(suite, pytester, target):
    """A wrong name, a wrong type, a factory that raises."""
    pytester.makepyfile(
        needy="import not_installed",
        faulty="1 / 0",
        shop="""
        NUMBER = 3
        def create(): pass
        def broken(): raise ValueError("no database")
        async def later(): pass
        class Partial:
            agents = ()
            async def start(self): pass
        partial = Partial
        """,
    )
    result = suite("def test(): pass", f"--isolation-backend={target}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = "\n".join(result.errlines)
    assert f"pytest-isolation: '{target}" in text or f"pytest-isolation: {target}" in text
    assert BACKENDS[target] in text


def test_arrivals_that_are_too_few_for_the_quantile_are_refused_in_ci_mode(suite):
    """It could never be decided; without CI mode only a miss is looked for, and that takes fewer."""
    source = """
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.latency(p95_ms=500, rate=4, users=2)
        async def test(): pass
    """
    result = suite(source, "--isolation-budget", "--collect-only")
    said = "*at least 120 samples, and 8 arrivals a second make 80 in 10 s; run with --isolation-max-seconds=15,*"
    result.stderr.fnmatch_lines([said])
    assert suite(source, "--isolation-budget", "--isolation-max-seconds=15", "--collect-only").ret == 0
    assert suite(source, "--collect-only").ret == 0


CUTS_AND_ORDERS = {
    "explore=True": "isolation(explore=True): it takes the number of deviations",
    "explore=0": "isolation(explore=0): it takes the number of deviations",
    "explore=99": "from 1 to 3, as in explore=1",
    "explore=1.0": "isolation(explore=1.0): it takes",
    "faults=[]": "isolation(faults=[]): True, or the exceptions that are to be raised",
    "faults=0": "isolation(faults=0): True, or the exceptions",
    "faults=''": "isolation(faults=''): True, or the exceptions",
}


@pytest.mark.parametrize("arguments", CUTS_AND_ORDERS)
def test_a_sweep_or_a_search_that_is_none_is_refused(suite, arguments):
    """True is no number, and an empty list would fail nobody."""
    result = suite(
        f"""
        import pytest
        @pytest.mark.isolation({arguments})
        async def test_one(user): pass
        """
    )
    assert_refused(result, "test_it.py::test_one", CUTS_AND_ORDERS[arguments])


@pytest.mark.parametrize("arguments", ["faults=None", "faults=False", "explore=None", "explore=False"])
def test_what_is_turned_off_is_not_refused(suite, arguments):
    """By a parameter, for example."""
    source = f"import pytest\n@pytest.mark.isolation({arguments})\nasync def test_one(user): pass"
    assert suite(source, "--collect-only").ret == 0


def test_a_test_of_hypothesis_is_told_what_works_instead(suite):
    """Not to draw in the body: that would be @given again."""
    result = suite(
        """
        import pytest
        from hypothesis import given, strategies as st
        @pytest.mark.isolation
        @given(st.integers())
        def test_one(user, number): pass
        """
    )
    said = "with @pytest.mark.parametrize, or let Hypothesis choose what users do: isolation.state_machine(…)"
    assert_refused(result, "test_it.py::test_one", said)
    assert "Draw inside the body" not in "\n".join(result.errlines)
