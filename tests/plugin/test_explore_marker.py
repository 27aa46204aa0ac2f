"""@pytest.mark.isolation(explore=1): the body of an async test in every order, each on a fresh backend."""

import json
import sys
from functools import partial

import pytest

import pytest_isolation.exploring as exploring

SHOP = """
    import asyncio, pytest
    from pytest_isolation import Fresh
    made = []
    class Shop:
        def __init__(self):
            made.append(self)
            self.free = [[]]
        async def notes(self, user):
            rows = self.free.pop() if self.free else []
            rows.append(user.secret("note"))
            await asyncio.sleep(0.001)
            answer = list(rows)
            FORGET
            self.free.append(rows)
            return answer
    @pytest.fixture
    def shop():
        return Fresh(Shop)
"""
TEST = """
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3, explore=1, cancel=CANCEL)
    async def test_notes(user, shop):
        user.observe(await shop.notes(user))
"""


@pytest.fixture(autouse=True)
def few_random_orders(monkeypatch):
    """After all orders that were asked for; otherwise they go on for as long as there is time."""
    monkeypatch.setattr(exploring, "Search", partial(exploring.Search, random_runs=20))


def shop(forget="rows.clear()", cancel="None"):
    return (SHOP + TEST).replace("FORGET", forget).replace("CANCEL", cancel)


def test_all_orders_are_played_after_the_crowd(suite):
    """Each on a backend of its own; the report says what was exhausted."""
    check = """
    def test_afterwards():
        assert len(made) > 20
    """
    result = suite(shop() + check, "--isolation-max-seconds=60")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*all schedules with ≤ 1 deviation, 3 users, * runs*"])


ONE_BY_ONE = """
    import asyncio, pytest
    from pytest_isolation import Fresh
    class Shop:
        last = None
        async def note(self, user):
            for _ in range(2 * user.index):  # in asyncio's own order everybody comes when the one before has gone
                await asyncio.sleep(0)
            self.last = user.secret("note")
            await asyncio.sleep(0)
            return self.last
    @pytest.fixture
    def shop():
        return Fresh(Shop)
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3, explore=1, cancel=False)
    async def test_note(user, shop):
        user.observe(await shop.note(user))
"""


def test_what_only_an_order_shows_is_found(suite):
    """The crowd alone has nothing to say."""
    result = suite(ONE_BY_ONE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["LEAK  user-0? received the secret 'note' of user-0?", "  phase     exploration of 3 users, *1 deviation *"]
    )
    suite(ONE_BY_ONE.replace("explore=1, ", "")).assert_outcomes(passed=1)


def test_the_printed_command_plays_that_order_alone(suite, pytester):
    """The same steps, and no crowd."""
    first = suite(ONE_BY_ONE)
    option = next(line for line in first.outlines if line.startswith("  replay")).split("--")[1]
    again = suite(ONE_BY_ONE, f"--{option}", "--isolation-report=again.json")
    again.assert_outcomes(failed=1)
    shown = [[line for line in run.outlines if " ms  " in line or line.startswith("LEAK")] for run in (first, again)]
    assert shown[0] == shown[1] != []
    [result] = json.loads((pytester.path / "again.json").read_text())["results"]
    assert {phase["phase"] for phase in result["phases"]} == {"solo", "exploration"}


def test_the_backend_of_the_conformance_suite_can_be_explored(suite):
    """It is made anew by its factory, started and closed."""
    source = """
    import asyncio, pytest
    from contextlib import asynccontextmanager
    class Shop:
        agents, started = (), False
        async def start(self): self.started = True
        async def aclose(self): self.started = False
        def connect(self, user_id): raise NotImplementedError
        @asynccontextmanager
        async def request(self, user_id):
            assert self.started
            self.last = user_id
            yield self
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=2, explore=1)
    async def test_request(user, isolation_backend):
        async with isolation_backend.request(user.id) as request:
            await asyncio.sleep(0)
            user.observe(user.secret())
    """
    result = suite(source, "--isolation-backend=test_it:Shop", "--isolation-max-seconds=60")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*all schedules with ≤ 1 deviation, 2 users, *"])


@pytest.mark.parametrize("how", ["asynccontextmanager", "function", "aclose"])
def test_a_backend_is_opened_in_the_loop_and_closed_there(suite, how):
    """In the other phases too, where there is one for the whole test."""
    openers = {
        "asynccontextmanager": """
    from contextlib import asynccontextmanager
    @asynccontextmanager
    async def open_shop():
        one = Shop(); yield one; closed.append(one)
    """,
        "function": """
    async def open_shop():
        return Closing()
    """,
        "aclose": """
    def open_shop():
        return Closing()
    """,
    }
    closing = """
    closed = []
    class Closing(Shop):
        async def aclose(self):
            closed.append(self)
    """
    check = """
    def test_afterwards():
        assert len(made) == len(closed) > 20
    """
    source = shop(cancel="False").replace("Fresh(Shop)", "Fresh(open_shop)")
    suite(source + closing + openers[how] + check, "--isolation-max-seconds=60").assert_outcomes(passed=2)


def test_fresh_works_without_exploring(suite):
    """One for the whole test."""
    source = shop().replace("explore=1, ", "") + "    def test_one(): assert len(made) == 1"
    suite(source).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("explore=1", "explore=-1"), "*isolation(explore=-1): it takes the number of deviations*"),
        (("explore=1", "explore='1'"), "*isolation(explore='1'): it takes the number of deviations*"),
        (("async def test_notes", "def test_notes"), "*isolation(explore=1) needs an async test*"),
        (
            ("@pytest.fixture\n    def shop", "@pytest.fixture\n    async def shop"),
            "*the fixture `shop` is async*Fresh(open_shop)*",
        ),
    ],
    ids=["negative", "text", "sync", "async fixture"],
)
def test_what_cannot_be_explored_is_refused_at_collection(suite, change, said):
    """With the way out."""
    result = suite(shop().replace(*change).replace("await shop.notes(user)", "1"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("Fresh(Shop)", "Shop()"),
            "*no fixture of this test says how one is made: let one return pytest_isolation.Fresh*",
        ),
        (("Fresh(Shop)", "Fresh(lambda shop=Shop(): shop)"), "*gave the same object twice*"),
        (("Fresh(Shop)", "Fresh(Shop())"), "*Fresh takes a function that makes a backend*"),
    ],
    ids=["made once", "the same", "no function"],
)
def test_a_backend_that_is_not_fresh_is_refused(suite, change, said):
    """With the way out."""
    result = suite(shop().replace(*change))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([said])


def test_trio_is_refused(suite):
    """The loop whose order is ours is asyncio's."""
    source = shop().replace("pytest.mark.asyncio", "pytest.mark.anyio")
    more = "    @pytest.fixture\n    def anyio_backend(): return 'trio'\n"
    result = suite(source + more)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*explore=* has an event loop of asyncio whose order is ours, and this test runs on trio*"]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
@pytest.mark.parametrize("library", ["asyncio", "anyio"])
def test_uvloop_is_refused(suite, library):
    """The real one: orders would be played on another loop than the test's own."""
    source = shop().replace("pytest.mark.asyncio", f"pytest.mark.{library}")
    more = """
    @pytest.fixture
    def anyio_backend(): return ("asyncio", {"use_uvloop": True})
    @pytest.fixture(scope="session")
    def event_loop_policy():
        import uvloop
        return uvloop.EventLoopPolicy()
    """
    result = suite(source + more)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*this test session runs on uvloop, which is written in C*"])


def test_a_token_of_an_order_needs_a_marker_that_explores(suite):
    """Or nothing would be played again."""
    result = suite(shop().replace("explore=1, ", ""), "--isolation-replay=explore:3:42:fifo:2=1:00000000")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is of an exploration, and the marker has no explore=*"])


def test_what_a_user_of_the_marker_can_do_is_said(suite):
    """It has no `seconds` and no `inline_threads`; the option that is named gives it the time."""
    source = (
        shop(cancel="False").replace("await shop.notes(user)", "await threaded(user)")
        + "    async def threaded(user): return await asyncio.to_thread(str, user.id)\n"
    )
    result = suite(source, "--isolation-max-seconds=0.001")
    assert result.ret == 0
    result.stdout.fnmatch_lines_random(
        [
            "*the time was over (0.001 s) after * before all * give it more with --isolation-max-seconds=0.01",
            "*whose order is not the loop's; for threads: isolation.explore(…, inline_threads=True), from a sync test, *",
        ]
    )
    result = suite(source, "--isolation-max-seconds=60")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*: all schedules with ≤ 1 deviation, *"])
    result.stdout.no_fnmatch_line("*the time was over*")
