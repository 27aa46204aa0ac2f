"""isolation.explore: every order of steps, from a sync test."""

import asyncio
import textwrap
from functools import partial

import pytest
from explored import ON_ASYNCIO as POOL

import pytest_isolation.exploring as exploring


@pytest.fixture(autouse=True)
def few_random_orders(monkeypatch):
    """After all orders that were asked for; otherwise they go on for as long as there is time."""
    monkeypatch.setattr(exploring, "Search", partial(exploring.Search, random_runs=20))


def test_a_finding_shows_its_steps_and_how_to_play_them_again(suite):
    """Who ran where; what asyncio would not have done is marked."""
    result = suite(POOL + "    def test_pool(isolation): isolation.explore(Pool, leaky)", "--isolation-seed=42")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  user-02 received the secret 'note' of user-00",
            "  channel   response, at $[[]0]",
            "  phase     exploration of 3 users, seed 42, 1 deviation from the order fifo",
            "  steps          0.0 ms  user-00: start → test_it.py:11 leaky()  await asyncio.sleep(0.001)",
            "            >    0.0 ms  user-00: cancelled while it waits in test_it.py:11 leaky()  await asyncio.sleep(0.001)",
            "*user-02: test_it.py:8 leaky()  rows = await pool.free.get() → test_it.py:11 leaky()*",
            "  replay    pytest test_it.py::test_pool --isolation-replay=explore:3:42:fifo:2=1:de7f244d/1@*",
        ]
    )


def test_a_finding_is_shown_once(suite):
    """And not again as what the test ended with."""
    result = suite(POOL + "    def test_pool(isolation): isolation.explore(Pool, leaky)")
    assert sum(line.startswith("LEAK") for line in result.outlines) == 1


def test_the_printed_command_reproduces_it(suite):
    """The same leak with the same steps, and nothing else is played."""
    source = POOL + "    def test_pool(isolation): isolation.explore(Pool, leaky)"
    first = suite(source)
    option = next(line for line in first.outlines if line.startswith("  replay")).split("--")[1]
    again = suite(source, f"--{option}")
    again.assert_outcomes(failed=1)
    shown = [[line for line in run.outlines if " ms  " in line or line.startswith("LEAK")] for run in (first, again)]
    assert shown[0] == shown[1] != []


def test_a_correct_backend_passes_and_the_report_says_what_was_exhausted(suite):
    """Which schedules were all played, as text and in the report."""
    source = """
    def test_pool(isolation):
        report = isolation.explore(Pool, correct, seconds=60)
        assert report.findings == ()
        assert report.runs > 100
        assert report.exhausted.startswith("all schedules with ≤ 1 deviation, 3 users, ")
    """
    result = suite(POOL + source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*all schedules with ≤ 1 deviation, 3 users, * runs*"])


def test_without_failing_the_report_has_the_findings(suite):
    """For a test that expects them."""
    source = """
    def test_pool(isolation):
        report = isolation.explore(Pool, leaky, fail=False)
        assert [finding.kind for finding in report.findings] == ["leak"]
        assert report.exhausted == ""
    """
    suite(POOL + source).assert_outcomes(passed=1)


def test_a_cancellation_can_be_ruled_out(suite):
    """Where a server never cancels a request."""
    source = "    def test_pool(isolation): isolation.explore(Pool, leaky, cancel=False, seconds=60)"
    suite(POOL + source).assert_outcomes(passed=1)


@pytest.mark.parametrize("how", ["asynccontextmanager", "contextmanager"])
def test_a_backend_is_opened_and_closed_for_each_run(suite, how):
    """As an async or a sync context manager."""
    a = "async " if how.startswith("async") else ""
    source = f"""
    from contextlib import {how}
    opened, closed = [], []
    @{how}
    {a}def open_pool():
        opened.append(pool := Pool())
        yield pool
        closed.append(pool)
    def test_pool(isolation):
        isolation.explore(open_pool, correct, seconds=60)
        assert len(opened) == len(closed) > 5
    """
    suite(POOL + source).assert_outcomes(passed=1)


def test_a_backend_with_aclose_is_closed(suite):
    """And may be made by an async function."""
    source = """
    closed = []
    class Closing(Pool):
        async def aclose(self):
            await asyncio.sleep(0)
            closed.append(self)
    async def open_pool():
        return Closing()
    def test_pool(isolation):
        isolation.explore(open_pool, correct, seconds=60)
        assert len(closed) > 5
    """
    suite(POOL + source).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("explore(lambda pool=Pool(): pool, correct)", "*gave the same object twice*makes a new backend each time*"),
        ("explore(Pool, correct, users=0)", "*0 is no number of users*"),
        ("explore(Pool, correct, deviations=-1)", "*-1 is no number of deviations: it is a whole number ≥ 0*"),
        ("explore(Pool, correct, seconds=0)", "*0 is no time*"),
        ("explore(Pool, lambda user, pool: None)", "*takes an async function: async def scenario(user, backend)*"),
        ("explore(Pool(), correct)", "*cannot be called*"),
        ("explore(Pool, correct, cancel='no')", "*cancel='no': it is True or False, as in explore(cancel=True)*"),
        ("explore(Pool, correct, inline_threads=1)", "*inline_threads=1: it is True or False*"),
        ("explore(Pool, correct, inline_threads=True, on='trio')", "*threads on trio are always real*"),
        ("explore(Fresh(Pool), correct)", "*hand over what makes a backend, explore(shop.open_backend, scenario)*"),
    ],
)
def test_a_misuse_says_what_was_wrong_and_the_right_form(suite, call, message):
    """At once, and not as a finding."""
    result = suite(POOL + f"    from pytest_isolation import Fresh\n    def test_pool(isolation): isolation.{call}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])


def test_in_async_code_it_is_refused(suite):
    """It has a loop of its own."""
    source = """
    @pytest.mark.anyio
    async def test_pool(isolation): isolation.explore(Pool, correct)
    @pytest.fixture
    def anyio_backend(): return "asyncio"
    """
    result = suite(POOL + source)
    result.stdout.fnmatch_lines(["*belongs into a sync test*"])


def test_a_scenario_that_observes_nothing_is_no_success(suite):
    """Nothing measured is never green."""
    source = """
    async def blind(user, pool): user.secret()
    def test_pool(isolation): isolation.explore(Pool, blind)
    """
    result = suite(POOL + source)
    result.stdout.fnmatch_lines(["*the scenario observed nothing*"])


def test_who_fails_alone_fails_the_test_as_what_it_is(suite):
    """That says nothing of isolation."""
    source = """
    async def broken(user, pool): raise ValueError("out of paper")
    def test_pool(isolation): isolation.explore(Pool, broken)
    """
    result = suite(POOL + source)
    result.stdout.fnmatch_lines(
        ["*ValueError: out of paper*", "*solo-00 was alone, so this says nothing of isolation*"]
    )


def test_a_deadlock_says_who_stands_where(suite):
    """Without waiting for it."""
    source = """
    class Locks:
        def __init__(self): self.a, self.b = asyncio.Lock(), asyncio.Lock()
    async def crosswise(user, locks):
        first, second = (locks.a, locks.b) if user.index % 2 else (locks.b, locks.a)
        async with first:
            await asyncio.sleep(0.001)
            async with second:
                user.observe(user.id)
    def test_locks(isolation): isolation.explore(Locks, crosswise)
    """
    result = suite(POOL + source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "STARVED  user-00 never got to the end*",
            "*! everybody waits, and nothing is left that could wake anybody up",
            "*! user-00 stands at test_it.py:* crosswise()  async with second:, and waits until a Lock is released; it is held by user-01",
            "*! they wait for one another: user-00 → user-01 → user-00",
        ]
    )


def test_who_fails_alone_when_the_machine_is_slow_is_no_finding(suite):
    """A timeout that a user's own steps can miss has nothing to do with others."""
    source = """
    async def hurried(user, pool):
        async with asyncio.timeout(0.01):
            for _ in range(3):
                await asyncio.sleep(0)
            user.observe(user.id)
    def test_pool(isolation): isolation.explore(Pool, hurried, seconds=60)
    """
    suite(POOL + source).assert_outcomes(passed=1)


def test_threads_are_said_to_be_beyond_replay(suite):
    """Unless they run inline."""
    source = """
    async def threaded(user, pool):
        user.observe(await asyncio.to_thread(str, user.id))
    def test_real(isolation): isolation.explore(Pool, threaded, seconds=0.2)
    def test_inline(isolation): isolation.explore(Pool, threaded, seconds=0.2, inline_threads=True)
    """
    result = suite(POOL + source)
    result.assert_outcomes(passed=2)
    said = [line for line in result.outlines if "not fully replayable" in line]
    assert len(said) == 1
    assert "test_real" in said[0]
    assert "inline_threads=True" in said[0]


UVLOOP = """
import asyncio, sys, types, pytest
uvloop = sys.modules["uvloop"] = types.ModuleType("uvloop")
uvloop.EventLoopPolicy = type("EventLoopPolicy", (asyncio.DefaultEventLoopPolicy,), {"__module__": "uvloop"})
uvloop.new_event_loop = type("Loop", (asyncio.SelectorEventLoop,), {"__module__": "uvloop"})
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "conftest",
    [
        "asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())",
        "def pytest_asyncio_loop_factories(config, item): return {'uvloop': uvloop.new_event_loop}",
        "@pytest.fixture(scope='session')\ndef event_loop_policy(): return uvloop.EventLoopPolicy()",
    ],
    ids=["policy", "factories", "fixture"],
)
def test_a_session_on_uvloop_is_refused(pytester, conftest):
    """What is explored on another loop than the application runs on would say nothing of it."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest(UVLOOP + conftest)
    pytester.makepyfile(textwrap.dedent(POOL) + "def test_pool(isolation): isolation.explore(Pool, correct)")
    try:
        result = pytester.runpytest_inprocess("-W", "ignore::DeprecationWarning")
    finally:
        asyncio.set_event_loop_policy(None)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*this test session runs on uvloop, which is written in C and keeps its queue to*"])


@pytest.mark.parametrize(
    ("made", "library"),
    [
        ("asyncio.Lock", "asyncio"),
        ("lambda: asyncio.Semaphore(3)", "asyncio"),
        ("lambda: asyncio.Barrier(1)", "asyncio"),
        ("threading.BoundedSemaphore", "asyncio"),
        ("lambda: trio.Semaphore(1)", "trio"),
    ],
)
def test_a_lock_is_handed_over_and_not_taken(suite, made, library):
    """Entering it would take it, and gives nothing."""
    source = f"""
    import asyncio, threading, trio
    async def scenario(user, lock):
        assert lock is not True and lock is not None
        if isinstance(lock, threading.Semaphore):
            assert lock.acquire(blocking=False)
            lock.release()
        else:
            async with lock:
                user.observe(user.secret())
        user.observe(user.secret())
    def test_lock(isolation):
        isolation.explore({made}, scenario, users=2, seconds=0.3, on={library!r})
    """
    suite(source).assert_outcomes(passed=1)


@pytest.mark.parametrize("a", ["a", ""])
def test_a_context_manager_that_gives_nothing_is_the_backend(suite, a):
    """It is entered and left for each run all the same."""
    source = f"""
    class Opening(Pool):
        open = closed = 0
        {"async " if a else ""}def __{a}enter__(self):
            Opening.open += 1
        {"async " if a else ""}def __{a}exit__(self, *_):
            Opening.open -= 1
            Opening.closed += 1
    def test_pool(isolation):
        isolation.explore(Opening, correct, seconds=0.2)
        assert Opening.open == 0 and Opening.closed > 5
    """
    suite(POOL + source).assert_outcomes(passed=1)


@pytest.mark.parametrize("opened", ["nothing", "lambda: None"])
def test_a_scenario_may_have_no_backend(suite, opened):
    """A function that yields or returns nothing means it."""
    source = f"""
    from contextlib import asynccontextmanager
    @asynccontextmanager
    async def nothing():
        yield
    async def scenario(user, backend):
        assert backend is None
        user.observe(user.secret())
    def test_it(isolation): isolation.explore({opened}, scenario, users=2, seconds=0.2)
    """
    suite(source).assert_outcomes(passed=1)


def test_the_run_that_shows_the_steps_takes_keywords_too(suite):
    """What is written down of queues and locks changes nothing of them."""
    source = """
    import asyncio
    class Box:
        def __init__(self):
            self.queue, self.last = asyncio.Queue(), None
    async def scenario(user, box):
        box.last = user.secret()
        box.queue.put_nowait(item=1)
        await asyncio.sleep(0)
        user.observe(box.last)
    def test_box(isolation): isolation.explore(Box, scenario, users=2, seconds=1)
    """
    result = suite(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  *", "  steps *", "            [*] *await asyncio.sleep(0) → ends"])


TWO = """
    import asyncio, pytest
    class Slot:
        def __init__(self): self.value = None
    async def fine(user, slot):
        await asyncio.sleep(0)
        user.observe(user.secret())
    async def racy(user, slot):
        for _ in range(6 if user.index == 0 else 12):
            await asyncio.sleep(0)
        slot.value = user.secret()
        await asyncio.sleep(0)
        user.observe(slot.value)
    def test_two(isolation):
        first = isolation.explore(Slot, fine, users=2, seconds=0.2)
        isolation.explore(Slot, racy, users=2, seconds=20)
"""


def test_a_finding_of_the_second_exploration_is_played_again_by_that_one(suite):
    """Its token says which; the first one plays nothing meanwhile."""
    found = suite(TWO)
    found.assert_outcomes(failed=1)
    option = next(line for line in found.outlines if line.startswith("  replay")).split("--")[1]
    assert "/2@" in option
    again = suite(TWO, f"--{option}")
    again.assert_outcomes(failed=1)
    shown = [[line for line in run.outlines if " ms  " in line or line.startswith("LEAK")] for run in (found, again)]
    assert shown[0] == shown[1] != []


@pytest.mark.parametrize("part", ["", "/3"])
def test_a_token_of_no_check_of_the_test_is_refused(suite, part):
    """Green would say that it had been played again."""
    result = suite(TWO, f"--isolation-replay=explore:2:42:fifo::00000000{part}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*plays one check of a test again, and is of none of this one's*"])


def test_what_stays_in_memory_is_found_again_by_its_token(suite):
    """It is what the first order leaves."""
    source = """
    import asyncio, threading
    kept = threading.local()
    class Shop: pass
    async def scenario(user, shop):
        await asyncio.sleep(0)
        kept.last = user.secret()
        user.observe(user.secret())
    def test_shop(isolation): isolation.explore(Shop, scenario, users=2, seconds=0.3)
    """
    found = suite(source)
    found.assert_outcomes(failed=1)
    option = next(line for line in found.outlines if line.startswith("  replay")).split("--")[1]
    again = suite(source, f"--{option}")
    again.assert_outcomes(failed=1)
    told = [[line for line in run.outlines if line.startswith("RETAINED")] for run in (found, again)]
    assert told[0] == told[1] != []


@pytest.mark.parametrize("presence", ["", ", cancel=False"])
def test_one_user_may_be_explored(suite, presence):
    """There is nobody whose secrets could be other ones, or who could be absent."""
    suite(
        f"""
        import asyncio
        async def scenario(user, shop):
            await asyncio.sleep(0)
            user.observe(user.secret())
        def test_it(isolation):
            isolation.explore(dict, scenario, users=1, seconds=0.2{presence})
        """
    ).assert_outcomes(passed=1)


def test_too_many_users_are_refused(suite):
    """Before anybody is made."""
    result = suite("def test_it(isolation): isolation.explore(dict, print, users=10**6)")
    result.stdout.fnmatch_lines(["*users=1000000: at most 100 users can be explored*"])
