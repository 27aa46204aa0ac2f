"""Nothing goes on when a user's run has ended."""

import sys
import textwrap

import pytest

from pytest_isolation.model import Aftermath, Leftover
from pytest_isolation.oracles.tasks import grown

HEAD = """
    import asyncio, contextvars, pytest, socket, subprocess, sys, threading
"""
ASYNC = """
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=6)
    async def test_it(user):
        user.observe(await handle(user.id))
"""
SYNC = """
    @pytest.mark.isolation(users=6)
    def test_it(user):
        user.observe(handle(user.id))
"""
HAS_PROC = sys.platform == "linux"
# Each: what leaves something behind, its correct twin, and the lines of the report.
FAULTS = {
    "a task for every user": (
        """
        async def push(): await asyncio.sleep(60)
        async def handle(user_id):
            task = asyncio.create_task(push())
            await asyncio.sleep(0)
            return user_id
        """,
        """
        async def push(): await asyncio.sleep(60)
        async def handle(user_id):
            task = asyncio.create_task(push())
            await asyncio.sleep(0)
            task.cancel()
            return user_id
        """,
        ASYNC,
        [
            "LEFT  user-00 left a task behind: push at test_??.py:4",
            "  phase     crowd of 6 users, seed *",
            '  seen      "6 more after 6 users at once; 5 after 5 who were alone"',
            "… and 5 more of this kind: user-01, user-02, user-03, user-04, user-05",
        ],
    ),
    "a task that each of a crowd starts for all": (
        """
        poller = None
        async def handle(user_id):
            global poller
            if "0" <= user_id and poller is None and len(asyncio.all_tasks()) > 6:
                await asyncio.sleep(0.01)
                poller = asyncio.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            return user_id
        """,
        """
        poller = None
        async def handle(user_id):
            global poller
            if "0" <= user_id and poller is None and len(asyncio.all_tasks()) > 6:
                poller = asyncio.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            return user_id
        """,
        ASYNC,
        ["LEFT  user-0* left a task behind: sleep at *", '  seen      "6 more after 6 users at once; 0 after 5 who*"'],
    ),
    "a timer for every user": (
        """
        def forget(user_id): pass
        async def handle(user_id):
            asyncio.get_running_loop().call_later(60, forget, user_id)
            await asyncio.sleep(0)
            return user_id
        """,
        """
        timer = None
        def forget(user_id): pass
        async def handle(user_id):
            global timer
            if timer is not None: timer.cancel()
            timer = asyncio.get_running_loop().call_later(60, forget, user_id)
            async with asyncio.timeout(60):
                await asyncio.sleep(0.001)
            return user_id
        """,
        ASYNC,
        [
            "LEFT  user-00 left a timer behind: forget at test_??.py:4",
            '  seen      "6 more after 6 users at once; 5 after 5 who were alone"',
        ],
    ),
    "a task of the server for every user": (
        """
        server = contextvars.copy_context()
        async def handle(user_id):
            server.run(asyncio.create_task, asyncio.sleep(60))
            await asyncio.sleep(0)
            return user_id
        """,
        """
        server = contextvars.copy_context()
        started = []
        async def handle(user_id):
            if not started: started.append(server.run(asyncio.create_task, asyncio.sleep(60)))
            await asyncio.sleep(0)
            return user_id
        """,
        ASYNC,
        ["LEFT  6 users left 6 tasks behind: sleep at *"],
    ),
    "a thread for every user": (
        """
        stop = threading.Event()
        def watch(): stop.wait(20)
        def handle(user_id):
            threading.Thread(target=watch, daemon=True).start()
            return user_id
        @pytest.fixture(autouse=True)
        def stopped():
            yield
            stop.set()
        """,
        """
        stop = threading.Event()
        def watch(): stop.wait(0.1)
        def handle(user_id):
            threading.Thread(target=watch, daemon=True).start()
            return user_id
        """,
        SYNC,
        ["LEFT  6 users left 6 threads behind: watch at test_??.py:5"],
    ),
    "a process for every user": (
        """
        children = []
        def handle(user_id):
            children.append(subprocess.Popen(["sleep", "20"]))
            return user_id
        @pytest.fixture(autouse=True)
        def stopped():
            yield
            for child in children:
                child.kill()
                child.wait()
        """,
        """
        def handle(user_id):
            subprocess.run(["sleep", "0.01"])
            return user_id
        """,
        SYNC,
        ["LEFT  6 users left 6 processes behind: sleep"],
    ),
    "a socket for every user": (
        """
        kept = []
        listening = socket.create_server(("127.0.0.1", 0))
        def handle(user_id):
            kept.append(socket.create_connection(listening.getsockname()))
            return user_id
        @pytest.fixture(autouse=True)
        def closed():
            yield
            for end in (*kept, listening): end.close()
        """,
        """
        listening = socket.create_server(("127.0.0.1", 0))
        lock = threading.Lock()
        pool = []
        def handle(user_id):
            with lock:
                if len(pool) < 6: pool.append(socket.create_connection(listening.getsockname()))
            return user_id
        @pytest.fixture(autouse=True)
        def closed():
            yield
            for end in (*pool, listening): end.close()
        """,
        SYNC,
        ["LEFT  6 users left 6 sockets behind: to 127.0.0.1:*"],
    ),
}


def source(*parts):
    return "\n".join(textwrap.dedent(part) for part in (HEAD, *parts))


def play(suite, *parts):
    return suite(source(*parts), "-W", "default")


HERE = [fault for name, fault in FAULTS.items() if HAS_PROC or not ("process" in name or "socket" in name)]


@pytest.mark.usefixtures("impatient")
def test_what_grows_with_users_is_a_finding(several):
    """Whose it is where that can be told, what, and how many."""
    result = several([source(faulty, test) for faulty, _, test, _ in HERE], "-W", "default")
    result.assert_outcomes(failed=len(HERE))
    result.stdout.fnmatch_lines([line for *_, lines in HERE for line in lines])


def test_their_correct_twins_are_none(several, twin):
    """They cancel, end soon, wait, or are started once for all."""
    result = several([source(correct, test) for _, correct, test, _ in HERE], "-W", "default")
    twin.is_silent(result, tests=len(HERE))


@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_what_ends_soon_is_waited_for(suite, plugin):
    """A task that cleans up for a moment is none that was left behind; on trio none can be."""
    backends = "['asyncio', 'trio']" if plugin == "anyio" else "['']"
    outcomes = play(
        suite,
        f"""
        import anyio
        @pytest.fixture(params={backends})
        def anyio_backend(request): return request.param
        @pytest.mark.{plugin}
        @pytest.mark.isolation(users=4)
        async def test_it(user, anyio_backend):
            if anyio_backend != "trio":
                asyncio.create_task(asyncio.sleep(0.2))
            user.observe(user.id)
            await anyio.sleep(0)
        """,
    ).parseoutcomes()
    assert (outcomes["passed"], outcomes.get("failed")) == (2 if plugin == "anyio" else 1, None)


def test_a_timer_that_is_due_soon_is_none_that_was_left_behind(suite):
    """A debounce; nobody waits for it either."""
    play(
        suite,
        """
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4, cancel=False)
        async def test_it(user):
            asyncio.get_running_loop().call_later(0.5, print)
            user.observe(user.id)
            await asyncio.sleep(0)
        """,
    ).assert_outcomes(passed=1)


def test_a_user_who_hangs_in_a_thread_has_starved_and_left_nothing(suite, monkeypatch):
    """One fault, one finding."""
    monkeypatch.setattr("pytest_isolation.playbook._LEAST_PATIENCE_S", 0.2)
    result = play(
        suite,
        """
        stop = threading.Event()
        @pytest.mark.isolation(users=2)
        def test_it(user):
            user.observe(user.id)
            if user._label.startswith("user"): stop.wait(20)
        @pytest.fixture(autouse=True)
        def stopped():
            yield
            stop.set()
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["STARVED *"])
    result.stdout.no_fnmatch_line("LEFT *")


@pytest.mark.usefixtures("impatient")
def test_what_a_failed_user_leaves_behind_is_not_its_fault_too(suite):
    """The failure is the finding, and its own traceback is shown."""
    result = play(
        suite,
        """
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=3)
        async def test_it(user):
            asyncio.create_task(asyncio.sleep(60))
            user.observe(user.id)
            await asyncio.sleep(0)
            assert user._label.startswith("solo")
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*FAILED  user-00 failed*"])
    result.stdout.no_fnmatch_line("*LEFT *")


POLL = Leftover("task", "poll at app.py:1", 0)
PUSH = Leftover("task", "push at app.py:9")


def push(*numbers):
    return tuple(Leftover(PUSH.what, PUSH.name, number) for number in numbers)


@pytest.mark.parametrize(
    ("left", "alone", "found"),
    [
        ((), ((), ()), ()),
        (push(5), (push(1), push(2), push(3)), push(5)),
        (push(5), (push(1), (), ()), ()),
        (push(5, 6), ((), (), ()), ()),
        (push(5, 6, 7), ((), (), ()), push(5, 6, 7)),
        (push(1), (push(1), push(2)), ()),
        (push(None, None, None), (push(None), push(None)), push(None, None, None)),
        (push(None, None, None), (push(None), ()), ()),
        (push(None, None), (push(None), push(None)), ()),
    ],
    ids=[
        "nothing",
        "each who was alone left one",
        "only the first who was alone left one",
        "a pool that is smaller than the crowd",
        "every user of the crowd left one",
        "of somebody else",
        "nobody's, each who was alone left one",
        "nobody's, the first who was alone left one",
        "nobody's, fewer than users",
    ],
)
def test_what_is_left_is_held_against_what_users_leave_who_are_alone(left, alone, found):
    """What the first of them starts may live for all."""
    assert tuple(grown((POLL, *left), (5, 6, 7), [Aftermath((POLL,)), *map(Aftermath, alone[1:])])) == found


def test_what_takes_the_place_of_another_is_not_left_behind(suite):
    """A timer that every request sets anew: there is never more than one."""
    result = suite(
        """
        import threading, pytest
        timer, lock = None, threading.Lock()
        @pytest.mark.isolation(users=10)
        def test_it(user):
            global timer
            with lock:
                if timer is not None:
                    timer.cancel()
                    timer.join()
                timer = threading.Timer(60, print)
                timer.daemon = True
                timer.start()
            user.observe(user.id)
        def test_end(): timer.cancel()
        """,
        "-W",
        "ignore::pytest_isolation.IsolationWarning",
    )
    result.assert_outcomes(passed=2)


REFILLED = """
    import threading, pytest
    workers, ends, lock = [], [], threading.Lock()

    def work(end): end.wait()

    def open_one():
        ends.append(threading.Event())
        workers.append(threading.Thread(target=work, args=(ends[-1],), daemon=True))
        workers[-1].start()

    def close_all():
        while workers:
            ends.pop().set()
            workers.pop().join()

    @pytest.mark.isolation(users=3)
    def test_it(user):
        alone = user._label.startswith("solo")
        with lock:
            if alone and user._label != "solo-05":
                open_one()
            elif not alone:
                close_all()
            else:
                for _ in range({count}): open_one()
        user.observe(user.id)

    def test_end(): close_all()
"""


def test_a_pool_that_is_as_large_again_as_it_was_is_not_left_behind(suite):
    """It grew with each who was alone, was closed, and is opened by one; what is more than there ever was is found."""
    suite(REFILLED.replace("{count}", "5"), "-W", "ignore::pytest_isolation.IsolationWarning").assert_outcomes(passed=2)
    result = suite(REFILLED.replace("{count}", "8"), "-W", "ignore::pytest_isolation.IsolationWarning")
    result.stdout.fnmatch_lines(["LEFT  1 user left 3 threads behind: work at test_it.py:*"])
