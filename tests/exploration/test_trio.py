"""isolation.explore(…, on="trio"): the same search on trio, through its own hook."""

import pytest
from explored import ON_TRIO

from pytest_isolation.phases import trio_order

CROSSWISE = """
    async def crosswise(user, pool):
        if not hasattr(pool, "locks"):
            pool.locks = trio.Lock(), trio.Lock()
        one, two = pool.locks if user.index % 2 else pool.locks[::-1]
        async with one:
            await trio.sleep(0)
            async with two:
                user.observe(user.secret())
"""
POOL = ON_TRIO + CROSSWISE


def explore(suite, scenario, *options, more=""):
    return suite(POOL + f"    def test_pool(isolation): isolation.explore(Pool, {scenario}, on='trio'{more})", *options)


def test_what_a_cancelled_user_leaves_is_found_and_played_again(suite):
    """With the steps, who was cancelled, and the command."""
    first = explore(suite, "leaky", "--isolation-seed=42")
    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(
        [
            "LEAK  probe-00 received the secret 'note' of user-0?",
            "  steps          0.0 ms  user-0?: start*",
            "            >    *  user-0?: cancelled while it waits in test_it.py:* leaky()  await trio.sleep(0.001)",
            "  replay    pytest test_it.py::test_pool --isolation-replay=explore:3:42:*",
        ]
    )
    assert "perform" not in str(first.outlines)
    option = next(line for line in first.outlines if line.startswith("  replay")).split("--")[1]
    again = explore(suite, "leaky", f"--{option}")
    shown = [[line for line in run.outlines if " ms  " in line or line.startswith("LEAK")] for run in (first, again)]
    assert shown[0] == shown[1] != []


def test_a_correct_backend_passes_and_says_what_was_exhausted(suite):
    """Of trio's orders."""
    result = explore(suite, "correct", more=", seconds=1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*all schedules with ≤ 1 deviation, 3 users, * runs*"])


def test_a_deadlock_is_a_finding_and_nobody_waits_for_it(suite):
    """It says where everybody stands."""
    result = explore(suite, "crosswise", more=", cancel=False")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["STARVED *", "*nothing can go on*", "*user-0? stands at test_it.py:*"])


def test_a_backend_that_does_not_close_is_told_of(suite):
    """In some order it is a finding, in each a misuse."""
    counted = """
    class Counted:
        def __init__(self, leaks):
            self.lent, self.leaks, self.idle = 0, leaks, trio.Event()

        async def aclose(self):
            if self.lent or not self.leaks:
                await self.idle.wait()

    async def borrows(user, backend):
        backend.lent += 1
        await trio.sleep(0.001)
        backend.lent -= 1
        user.observe(user.secret())

    def test_some(isolation): isolation.explore(lambda: Counted(True), borrows, on='trio')
    def test_all(isolation): isolation.explore(lambda: Counted(False), borrows, on='trio')
    """
    result = suite(ON_TRIO + counted)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["STARVED  the backend never closed*", "*did not close after users who were alone: *aclose()*idle.wait()*"]
    )


def test_an_answer_that_is_slow_for_real_is_waited_for(suite, slow_port):
    """No deadline comes earlier than on a real clock while somebody waits for a socket; and it is said that one did."""
    asking = f"""
    async def asks(user, _pool):
        with trio.fail_after(10):
            async with await trio.open_tcp_stream("127.0.0.1", {slow_port}) as stream:
                await stream.send_all(user.secret().encode() + b"\\n")
                user.observe(await stream.receive_some(100))
    def test_pool(isolation): isolation.explore(Pool, asks, users=2, seconds=1, on="trio")
    """
    result = suite(POOL + asking)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*not fully replayable: * events came from threads or sockets*"])


def test_another_library_is_refused(suite):
    """With those that there are."""
    result = suite(POOL + "    def test_pool(isolation): isolation.explore(Pool, correct, on='curio')")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*on='curio': orders can be decided on asyncio and on trio*"])


def test_a_trio_without_the_hook_is_refused(monkeypatch):
    """Its names are private, and may go any day."""
    monkeypatch.delattr("trio._core._run._r")
    assert trio_order.why_not() == "this version of trio has no _r in trio._core._run"


def test_trio_is_left_as_it_was():
    """Also for whoever runs after it."""
    from trio._core import _run

    before = _run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler = object()
    with pytest.raises(ZeroDivisionError), trio_order._ours(_run, scheduler):
        assert _run._r is scheduler
        raise ZeroDivisionError
    assert (_run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING) == before


def test_what_only_another_order_shows_is_found(suite):
    """Nobody is cancelled; in the order in which tasks become ready everybody comes when the one before has gone."""
    source = """
    import trio
    class Shop:
        last = None
    async def note(user, shop):
        for _ in range(2 * user.index):
            await trio.lowlevel.checkpoint()
        shop.last = user.secret("note")
        await trio.lowlevel.checkpoint()
        user.observe(shop.last)
    def test_shop(isolation): isolation.explore(Shop, note, on="trio", cancel=False, seconds=60)
    """
    result = suite(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["LEAK  user-0? received the secret 'note' of user-0?", "*1 deviation from the order *"]
    )
