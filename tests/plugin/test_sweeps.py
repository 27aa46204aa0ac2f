"""Users are cut at every suspension point, and whoever comes after them must not notice."""

import json
import re
import sys
import textwrap

import pytest

# A client of a line protocol with a pool of one connection, over a real socket. In {broken} it gives the connection back.
CLIENT = """
    import asyncio, pytest

    class Server:
        async def __aenter__(self):
            self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
            self.port = self.server.sockets[0].getsockname()[1]
            self.free, self.connections = [], []
            return self

        async def __aexit__(self, *_):
            self.server.close()
            for writer in self.connections:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in self.connections), return_exceptions=True)

        async def serve(self, reader, writer):
            self.connections.append(writer)
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        async def ask(self, text):
            reader, writer = self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
            self.connections.append(writer)
            is_clean = False
            try:
                writer.write(text.encode() + b"\\n")
                answer = (await reader.readline()).decode().strip()
                is_clean = True
                return answer
            finally:
                if is_clean or {broken}:
                    self.free.append((reader, writer))
                else:
                    writer.close()

    @pytest.mark.asyncio
    async def test_it(isolation):
        async with Server() as server:
            async def scenario(user):
                user.observe(await server.ask(user.secret("note")))
                user.observe(await server.ask("bye " + user.id))
            await isolation.check(scenario, users=3)
"""
SLOTS = """
    import anyio, pytest

    @pytest.fixture
    def slots():
        return anyio.Semaphore(1)

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param

    @pytest.mark.anyio
    @pytest.mark.isolation(users=2{more})
    async def test_it(user, slots):
        await slots.acquire()
        {begin}
            await anyio.sleep(0)
            user.observe(user.id)
        {end}
            slots.release()
"""
LEAVING = """
    import anyio, pytest

    under_way = None

    async def ask(note):
        global under_way
        before, under_way = under_way, note
        await anyio.sleep(0.001)
        under_way = None
        return before or "nobody is under way"

    {decorator}
    @pytest.mark.isolation(users=1{more})
    async def test_it(user):
        user.observe([user.id, await ask(user.secret("note"))])
"""
CAREFUL, CARELESS = {"begin": "try:", "end": "finally:"}, {"begin": "if True:", "end": "if True:"}


def test_a_reply_that_a_cancelled_user_left_in_a_connection_is_found(suite):
    """With the await, by the default configuration; the next user gets it."""
    result = suite(CLIENT.replace("{broken}", "True"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  probe-* received the secret 'note' of user-03",
            "  phase     cancel sweep */*: user-03 was cancelled while it waited in *test_it.py:* in ask ← *in scenario*",
            "  replay    pytest test_it.py::test_it --isolation-replay=cancel:*",
        ]
    )


def test_a_client_that_drops_such_a_connection_passes(suite):
    result = suite(CLIENT.replace("{broken}", "False"))
    result.assert_outcomes(passed=1)


def test_a_slot_that_a_cancelled_user_keeps_starves_those_who_come_after(suite, monkeypatch):
    """On asyncio and on trio."""
    monkeypatch.setattr("pytest_isolation.playbook._ALONE_PATIENCE_S", 0.3)
    result = suite(SLOTS.format(more=", cancel=True", **CARELESS), "-p", "no:asyncio", "--isolation-max-seconds=0.1")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*STARVED  *never got to the end*"])


def test_a_slot_that_is_given_back_in_any_case_passes(suite):
    suite(SLOTS.format(more=", cancel=True", **CAREFUL), "-p", "no:asyncio").assert_outcomes(passed=2)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_what_a_cancelled_user_left_in_a_variable_is_found(suite, mode):
    decorator = "@pytest.mark.asyncio" if mode == "strict" else ""
    result = suite(LEAVING.format(decorator=decorator, more=""), f"--asyncio-mode={mode}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  probe-00 received the secret 'note' of user-01",
            "  phase     cancel sweep 1/1: user-01 was cancelled while it waited in test_it.py:8 in ask ← test_it.py:15 in test_it*",
        ]
    )


def test_nobody_is_cancelled_where_the_marker_says_so(suite):
    suite(LEAVING.format(decorator="@pytest.mark.asyncio", more=", cancel=False")).assert_outcomes(passed=1)


FAILING = CLIENT.replace("asyncio.start_server", "asyncio.start_server").replace(
    "async def test_it(isolation):", "@pytest.mark.isolation(users=3{more})\n    async def test_it(user, server):"
)
FAILING = re.sub(
    r"        async with Server\(\) as server:.*",
    "        user.observe(await server.ask(user.secret('note')))\n",
    FAILING,
    flags=re.DOTALL,
).replace(
    "    @pytest.mark.asyncio\n",
    "    import pytest_asyncio\n    @pytest_asyncio.fixture\n    async def server():\n"
    "        async with Server() as server:\n            yield server\n\n    @pytest.mark.asyncio\n",
)


def test_a_connection_that_breaks_off_under_a_user_is_a_fault_of_its_own(suite):
    """A client that survives cancellation, and gives a connection back that was reset, is found by faults=True."""
    broken = "__import__('sys').exc_info()[0] is ConnectionResetError"
    source = FAILING.replace("{broken}", broken)
    suite(source.replace("{more}", "")).assert_outcomes(passed=1)
    result = suite(source.replace("{more}", ", faults=True"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "FAILED  probe-* failed, though the scenario ended well for those who were alone before",
            "  phase     fault sweep with ConnectionResetError */*: * met a ConnectionResetError in *test_it.py:* in ask*",
            "  replay    pytest test_it.py::test_it --isolation-replay=fault:*:ConnectionResetError:*",
        ]
    )


def test_a_client_that_drops_a_broken_connection_passes(suite):
    source = FAILING.replace("{broken}", "False").replace("{more}", ", faults=[ConnectionResetError, TimeoutError]")
    suite(source).assert_outcomes(passed=1)


TWO_ARGUMENTS = """
    import asyncio, pytest

    class MyError(Exception):
        def __init__(self, code, text):
            super().__init__(code, text)

    under_way = None

    async def ask(server, note):
        global under_way
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        before, under_way = under_way, note
        try:
            await reader.read()
            under_way = None
        except Exception as error:
            if not ({careful}):
                raise
            under_way = None
            raise
        finally:
            writer.close()
        return before

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=1, cancel=False, faults=[{fault}])
    async def test_it(user):
        async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as server:
            user.observe([user.id, await ask(server, user.secret("note"))])
"""


def test_a_fault_that_cannot_be_made_is_refused_at_collection(suite):
    """It would be raised nowhere, and nobody would know."""
    result = suite(TWO_ARGUMENTS.format(fault="MyError", careful=True))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*isolation(faults=[[]MyError[]]): none can be made (TypeError: *). Say how: faults=[[]lambda: MyError(…)[]]"]
    )


def test_a_fault_may_be_made_by_a_function(suite):
    """It is the very exception that arrives, and its name is in the token."""
    made = 'lambda: MyError(7, "x")'
    result = suite(TWO_ARGUMENTS.format(fault=made, careful="not isinstance(error, MyError) or error.args != (7, 'x')"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["  phase     fault sweep with MyError */*: * met a MyError in *", "*--isolation-replay=fault:*:MyError:*"]
    )
    suite(TWO_ARGUMENTS.format(fault=made, careful=True)).assert_outcomes(passed=1)


ON_TRIO = """
    import anyio, pytest, trio

    class MyError(Exception): pass

    @pytest.fixture
    def anyio_backend():
        return "trio"

    under_way = None

    async def answers(stream):
        async with stream:
            answer = await stream.receive()
            await anyio.sleep(0.005)
            await stream.send(answer)

    @pytest.mark.anyio
    @pytest.mark.isolation(users=1, cancel=False, faults=[{fault}])
    async def test_it(user):
        global under_way
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answers)
            async with await anyio.connect_tcp("127.0.0.1", listener.extra(anyio.abc.SocketAttribute.local_port)) as stream:
                before, under_way = under_way, user.secret("note")
                try:
                    await stream.send(user.id.encode())
                    with anyio.fail_after(60):
                        user.observe([before, await stream.receive()])
                finally:
                    {tidy}
                under_way = None
            tasks.cancel_scope.cancel()
"""


FAULTS_ON_TRIO = {
    "ConnectionResetError": "met a Conn*",
    "MyError": "met a MyError",
    "trio.fail_after": "ran out of time",
}


@pytest.mark.parametrize("fault", FAULTS_ON_TRIO)
def test_a_fault_on_trio_is_found(suite, fault):
    """A connection is really broken off; of anything else trio is told that nobody waits any more."""
    result = suite(ON_TRIO.format(fault=fault, tidy="pass"), "-p", "no:asyncio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  probe-* received the secret 'note' of *",
            f"  phase     fault sweep with * */*: * {FAULTS_ON_TRIO[fault]} in *",
        ]
    )


@pytest.mark.parametrize("fault", FAULTS_ON_TRIO)
def test_its_correct_twin_on_trio_passes(suite, fault):
    result = suite(ON_TRIO.format(fault=fault, tidy="under_way = None"), "-p", "no:asyncio")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: fault sweep with *: * of * points*"])


SCENARIO = """
    import anyio, contextlib, pytest, socket, time
    class MyError(Exception): pass

    kept = None

    @pytest.fixture
    def anyio_backend():
        return "{on}"

    {more}

    @pytest.mark.anyio
    @pytest.mark.isolation(users=1, cancel=False, faults={faults})
    async def test_it(user{fixtures}):
        {body}
"""
BOTH = pytest.mark.parametrize("on", ["asyncio", "trio"])


def played(suite, on, faults, body, more="", fixtures=""):
    """One scenario on one of the libraries."""
    indented = (
        textwrap.indent(textwrap.dedent(part), "    " * depth).strip() for part, depth in ((body, 2), (more, 1))
    )
    parts = dict(zip(("body", "more"), indented, strict=True))
    return suite(SCENARIO.format(on=on, faults=faults, fixtures=fixtures, **parts), "-p", "no:asyncio")


def test_where_trio_lets_nobody_go_nothing_is_raised(suite):
    """It waits for the thread in any case, and would then wake up who waits for something else."""
    body = "user.observe(await anyio.to_thread.run_sync(lambda: time.sleep(0.01) or user.id))"
    result = played(suite, "trio", "[TimeoutError]", body)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*: nothing could be raised in *: it waits for what lets nobody go before it has ended"]
    )


def test_a_difference_that_is_seen_once_where_nobody_can_be_cut_is_no_finding(suite):
    """Whoever plays there is not cut, so there is nothing that could be played again to prove it."""
    body = """
    await anyio.to_thread.run_sync(lambda: time.sleep(0.01))
    user.observe([user.id, "odd" if user._label == "probe-00" else "even"])
    """
    result = played(suite, "trio", "[TimeoutError]", body)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: nothing could be raised in *"])


def test_a_difference_that_cannot_be_played_again_is_only_suspected(suite):
    """After the first cut nobody else could be cut there."""
    body = """
    global kept
    try:
        await anyio.to_thread.run_sync(lambda: time.sleep(0.01), abandon_on_cancel=kept is None)
    except MyError:
        kept = "a cut"
        raise
    user.observe([user.id, "odd" if kept and user._label == "probe-00" else "even"])
    """
    result = played(suite, "trio", "[MyError]", body)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*suspected: probe-00 saw another response than alone, after fault sweep *: user-* met a MyError in *",
            "*: nothing could be raised in *",
        ]
    )


def test_a_leak_that_is_seen_once_where_nobody_can_be_cut_is_one(suite):
    """It needs no proof: what is shown to somebody cannot be unseen."""
    body = """
    global kept
    before, kept = kept, user.secret("note")
    await anyio.to_thread.run_sync(lambda: time.sleep(0.01))
    user.observe([user.id, before if user._label == "probe-00" else None])
    """
    result = played(suite, "trio", "[TimeoutError]", body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  probe-00 received the secret 'note' of user-*", "*nobody could be cut in *"])


def test_what_a_thread_raises_later_is_a_fault_all_the_same(suite):
    """It asks whether it has been cancelled, and so has the fault that was kept for that."""
    body = """
    global kept
    before, kept = kept, user.secret("note")
    def work():
        for _ in range(20):
            time.sleep(0.001)
            anyio.from_thread.check_cancelled()
    await anyio.to_thread.run_sync(work)
    kept = None
    user.observe([user.id, before])
    """
    result = played(suite, "trio", "[MyError]", body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  probe-* received the secret 'note' of *", "* met a MyError in *"])


@BOTH
def test_where_somebody_only_lets_others_have_their_turn_nothing_breaks_off(suite, on):
    """Having taken a lock, in an asynchronous generator: there no library expects anything."""
    more = """
    @contextlib.asynccontextmanager
    async def locked(lock):
        async with lock:
            yield

    @pytest.fixture
    def lock():
        return anyio.Lock()
    """
    body = "async with locked(lock): user.observe(user.id)"
    result = played(suite, on, "[ConnectionResetError, MyError]", body, more, ", lock")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: fault sweep with MyError: the scenario has no point where that could happen"])


@BOTH
def test_a_group_of_tasks_waits_for_nothing_that_breaks_off(suite, on):
    """Its children would outlive it."""
    body = """
    is_open = True
    async def child():
        await anyio.sleep(0.01)
        assert is_open
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
    finally:
        is_open = False
    user.observe(user.id)
    """
    played(suite, on, "[MyError]", body).assert_outcomes(passed=1)


CONNECTED = """
async def serve(stream):
    async with stream:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            for _ in range(2):
                await anyio.sleep(0.005)
                await stream.send(b"!")
                await stream.receive()

@pytest.fixture
async def port():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()
"""


@BOTH
def test_a_reset_is_met_as_one_where_the_answer_is_waited_for(suite, on):
    """And not as an orderly end, at which this client tidies up; on asyncio anyio's streams are known, too."""
    body = """
    global kept
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.receive()
        before, kept = kept, user.secret("note")
        try:
            await stream.send(b"?")
            await stream.receive()
            kept = None
        except anyio.EndOfStream:
            kept = None
        except anyio.BrokenResourceError:
            pass
        user.observe([user.id, before])
    """
    result = played(suite, on, "[ConnectionResetError]", body, CONNECTED, ", port")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  probe-* received the secret 'note' of *"])


@BOTH
@pytest.mark.parametrize("waits", ["await anyio.sleep(0.001)", "await anyio.Event().wait()"])
def test_what_waits_in_a_generator_is_seen_through_it(suite, on, waits):
    """A sleep there is a sleep, and no connection."""
    more = f"""
    async def numbers():
        with anyio.move_on_after(0.005):
            {waits}
        yield 1
    """
    body = "user.observe([user.id, *[number async for number in numbers()]])"
    result = played(suite, on, "[MyError]", body, more)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: fault sweep with MyError: the scenario has no point where that could happen"])


def test_a_sleep_does_not_end_together_with_the_timeout_around_it(suite):
    """It would hide it; and a sleep alone limits nothing."""
    more = """
    import asyncio
    async def ask(note):
        global kept
        before, kept = kept, note
        async with asyncio.timeout(1):
            await asyncio.sleep(0.001)
        kept = None
        return before
    """
    result = played(suite, "asyncio", "[anyio.fail_after]", AROUND["nothing"], more)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  probe-* received the secret 'note' of *"])
    alone = played(suite, "asyncio", "[anyio.fail_after]", "await anyio.sleep(0.001); user.observe(user.id)")
    alone.stdout.fnmatch_lines(["*: fault sweep with timeout: the scenario has no point where that could happen"])


ASKS_FOR_A_SECOND = """
async def ask(note):
    global kept
    before, kept = kept, note
    with anyio.move_on_after(1) as limit:
        await anyio.sleep(0.001)
    if not limit.cancelled_caught:
        kept = None
    return before
"""
AROUND = {
    "nothing": """
    user.observe([user.id, await ask(user.secret("note"))])
    """,
    "a longer one": """
    global kept
    try:
        with anyio.fail_after(60):
            user.observe([user.id, await ask(user.secret("note"))])
    except TimeoutError:
        kept = None
        raise
    """,
    "a shorter one of another task": """
    async def beat():
        with anyio.move_on_after(0.5):
            await anyio.sleep(0.1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await anyio.sleep(0)
        user.observe([user.id, await ask(user.secret("note"))])
        tasks.cancel_scope.cancel()
    """,
}


@BOTH
@pytest.mark.parametrize("around", AROUND)
def test_of_several_timeouts_the_first_that_would_runs_out(suite, on, around):
    """Of the task that waits: whoever has a longer one around it, and tidies up there, would hide all others."""
    result = played(suite, on, "[anyio.fail_after]", AROUND[around], ASKS_FOR_A_SECOND)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  probe-* received the secret 'note' of *"])


def test_a_socket_at_which_somebody_listens_is_left_alone(suite):
    """Others are served there, too."""
    more = """
    @pytest.fixture
    def listening():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield listening

    async def knock(port):
        await anyio.sleep(0.005)
        async with await anyio.connect_tcp("127.0.0.1", port):
            pass
    """
    body = """
    import trio
    with trio.socket.from_stdlib_socket(listening.dup()) as waiting:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(knock, listening.getsockname()[1])
            end, _ = await waiting.accept()
            end.close()
    user.observe(user.id)
    """
    result = played(suite, "trio", "[ConnectionResetError]", body, more, ", listening")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: fault sweep with ConnectionResetError: 1 of 1 points*"])


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_on_uvloop_users_are_cut_as_on_asyncio(suite):
    """Only its timers cannot be seen; a test that asks for timeouts is told so."""
    loop = """
    import uvloop

    @pytest.fixture(scope="session")
    def event_loop_policy():
        return uvloop.EventLoopPolicy()
    """
    source = LEAVING.format(decorator="@pytest.mark.asyncio", more="{more}") + loop
    result = suite(source.format(more=", cancel=True"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*cancel sweep 1/1: user-01 was cancelled while it waited in test_it.py:8 in ask*"])
    result = suite(source.format(more=", cancel=False, faults=True"))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*fault sweep with timeout: not possible on uvloop, which does not show its timers"])


def test_a_check_inside_of_asyncio_run_cuts_users_too(suite):
    """No async plugin has a part in it."""
    result = suite(
        """
        import asyncio

        under_way = None

        async def scenario(user):
            global under_way
            before, under_way = under_way, user.secret("note")
            await asyncio.sleep(0)
            under_way = None
            user.observe([user.id, before])

        def test_it(isolation):
            asyncio.run(isolation.check(scenario, users=1))
        """,
        "-p",
        "no:asyncio",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["  phase     cancel sweep 1/1: user-01 was cancelled while it waited in *in scenario*"]
    )


CHECK = """
    import asyncio, pytest

    under_way = None

    @pytest.mark.asyncio
    async def test_it(isolation):
        async def one(user):
            await asyncio.sleep(0)
            user.observe([user.id, user.anonymous])

        async def two(user):
            global under_way
            before, under_way = under_way, user.secret("note")
            await asyncio.sleep(0)
            under_way = None
            user.observe([user.id, before])

        await isolation.check(one, users=2)
        await isolation.check({said})
"""


def test_a_finding_of_the_second_check_is_played_again_in_that_check(suite):
    """The token says which one."""
    token = token_of(suite(CHECK.format(said="two, users=1")))
    assert "/2@" in token
    again = suite(CHECK.format(said="two, users=1"), f"--isolation-replay={token}")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["  phase     cancel sweep 1/1: *in two*"])


@pytest.mark.parametrize("more", ["cancel=False", "cancel=False, faults=True", "cancel=False, anonymous=0.5"])
def test_a_check_takes_what_the_marker_takes(suite, more):
    suite(CHECK.format(said=f"one, users=2, {more}")).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "more, said",
    [
        ("cancel=3", "isolation.check(cancel=3): True cancels users"),
        ("faults=['reset']", "isolation.check(faults=['reset']): True, or the exceptions"),
        ("anonymous=2", "isolation.check(anonymous=2): it takes the share of the crowd"),
    ],
)
def test_a_check_refuses_what_the_marker_refuses(suite, more, said):
    result = suite(CHECK.format(said=f"two, {more}"))
    result.assert_outcomes(failed=1)
    assert said in result.stdout.str()


READ = "answer = (await reader.readline()).decode().strip()"
TIMED = {
    "asyncio.timeout": f"async with asyncio.timeout(60):\n                    {READ}",
    "asyncio.wait_for": READ.replace("reader.readline()", "asyncio.wait_for(reader.readline(), 60)"),
}


@pytest.mark.parametrize("how", TIMED)
def test_a_timeout_that_expires_under_a_user_is_a_fault_of_its_own(suite, how):
    """The client gives a connection back on which the answer is still to come; nobody waits for a minute."""
    source = FAILING.replace(READ, TIMED[how]).replace("{more}", ", faults=[asyncio.timeout]")
    result = suite(source.replace("{broken}", "__import__('sys').exc_info()[0] is TimeoutError"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  probe-* received the secret 'note' of *",
            "  phase     fault sweep with timeout */*: * ran out of time in *test_it.py:* in ask*",
            "  replay    pytest test_it.py::test_it --isolation-replay=fault:*:timeout:*",
        ]
    )
    [token] = re.findall(r"--isolation-replay=(\S+)", result.stdout.str())[:1]
    again = suite(
        source.replace("{broken}", "__import__('sys').exc_info()[0] is TimeoutError"), f"--isolation-replay={token}"
    )
    again.assert_outcomes(failed=1)


@pytest.mark.parametrize("how", TIMED)
def test_a_client_that_drops_a_connection_when_its_time_is_over_passes(suite, how):
    """The report says how much was covered."""
    source = FAILING.replace(READ, TIMED[how]).replace("{more}", ", faults=True").replace("{broken}", "False")
    result = suite(source)
    result.assert_outcomes(passed=1)
    assert re.search(r"fault sweep with timeout: (\d+) of \1 points", result.stdout.str())


def test_only_where_something_may_arrive_it_may_break_off(suite):
    """A sleep, a lock or a queue does not raise ConnectionResetError."""
    result = suite(
        """
        import asyncio, pytest

        lock, queue = asyncio.Lock(), asyncio.Queue()

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=2, cancel=False, faults=True)
        async def test_it(user):
            async with lock:
                await asyncio.sleep(0)
            queue.put_nowait(1)
            await queue.get()
            user.observe(user.id)
        """,
        "--isolation-report=report.json",
    )
    result.assert_outcomes(passed=1)


def test_the_tasks_of_a_user_are_followed(suite):
    """A reply that a child task leaves behind is left behind by the user."""
    source = CLIENT.replace("{broken}", "True").replace(
        'server.ask("bye " + user.id)', 'asyncio.wait_for(asyncio.create_task(server.ask("bye " + user.id)), 5)'
    )
    assert source != CLIENT.replace("{broken}", "True")
    suite(source).assert_outcomes(failed=1)


REPLAYED = LEAVING.format(decorator="@pytest.mark.asyncio", more="")


def token_of(result):
    return re.search(r"--isolation-replay=(\S+)", result.stdout.str())[1]


def test_a_finding_is_played_again_by_its_token(suite):
    """The same point, and nothing else."""
    token = token_of(suite(REPLAYED))
    result = suite(REPLAYED, f"--isolation-replay={token}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  phase     cancel sweep 1/1: *", f"*--isolation-replay={token}"])
    assert "crowd" not in result.stdout.str()


def test_a_token_of_a_point_that_is_no_more_is_refused(suite):
    """Something else would be played."""
    token = token_of(suite(REPLAYED))
    result = suite(
        REPLAYED.replace("await anyio.sleep(0.001)", "pass; await anyio.sleep(0.002)\n        pass").replace(
            "global under_way\n", "global under_way\n\n"
        ),
        f"--isolation-replay={token}",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*the scenario has no such suspension point any more as cancel:1:*its code*has changed*"]
    )


def test_a_token_says_with_what_it_was_made(suite):
    """Where its point is no more, that is the likeliest reason; where it still is, a reader should know."""
    token, _, _ = token_of(suite(REPLAYED)).partition("@")
    result = suite(REPLAYED, f"--isolation-replay={token}@0.0.1-2.7.18-00000000")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*plays at the same point, though it was made with pytest-isolation 0.0.1, which is * now and Python 2.7.18, *"
        ]
    )
    other = re.sub(":[0-9a-f]{8}$", ":00000000", token)
    result = suite(REPLAYED, f"--isolation-replay={other}@0.0.1-2.7.18-00000000")
    result.stdout.fnmatch_lines(["*no such suspension point any more as *: it was made with pytest-isolation 0.0.1, *"])


def test_a_sweep_that_was_too_long_says_how_far_it_came(suite):
    """And how all of it is done."""
    source = """
        import asyncio, pytest

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=1)
        async def test_it(user):
            for _ in range(40):
                await asyncio.sleep(0.002)
            user.observe(user.id)
    """
    result = suite(source, "--isolation-max-seconds=0.3")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*test_it: cancel sweep: * of 40 points, then its time was over; all of them with isolation(cancel=True)"]
    )


def test_a_difference_that_is_not_there_again_is_only_suspected(suite):
    """Three times it has to be there; once is said, and fails nothing."""
    source = """
        import asyncio, pytest

        cancelled = 0

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=1)
        async def test_it(user):
            global cancelled
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                cancelled += 1
                raise
            user.observe([user.id, "odd" if cancelled == 1 and user._label == "probe-00" else "even"])
    """
    result = suite(source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*suspected: probe-00 saw another response than alone, after cancel sweep 1/1: *"])


def test_a_user_who_does_not_end_when_cancelled_is_said(suite, monkeypatch):
    """The one who comes after it does not wait for that."""
    monkeypatch.setattr("pytest_isolation.playbook._ALONE_PATIENCE_S", 0.2)
    source = """
        import asyncio, pytest

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=1)
        async def test_it(user):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                await asyncio.sleep(60)
            user.observe(user.id)
    """
    result = suite(source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*and has not ended within * s; who came after it did not notice*"])


def test_a_scenario_that_cannot_run_twice_is_told_so(suite):
    """It is an ordinary failure, with the way out."""
    result = suite(
        """
        import pytest
        taken = set()
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=2, cancel=True)
        async def test_it(user):
            assert "bob" not in taken
            taken.add("bob")
            user.observe(user.id)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*solo-01 was alone*Those before ended well: a scenario is played again and again*"])


HEALING = """
    import asyncio, pytest

    wrong = 0

    async def ask(note):
        global wrong
        if wrong:
            wrong -= {heals}
            return "OK"
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            wrong = {breaks}
            raise
        return note

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=1)
    async def test_it(user):
        user.observe(await ask(user.secret("note")))
"""


@pytest.mark.parametrize("heals", [0, 1])
def test_damage_that_keeps_others_from_the_very_point_is_a_finding(suite, heals):
    """It cannot be confirmed by another cut: nobody waits there any more. That it goes on, or another user met it, does."""
    result = suite(HEALING.format(heals=heals, breaks=2))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "DIFFERENT  probe-00 saw another response than alone",
            "  phase     cancel sweep 1/1: user-01 was cancelled while it waited in test_it.py:* in ask ← *",
        ]
    )


def test_a_client_that_is_not_broken_by_a_cut_passes(suite):
    suite(HEALING.format(heals=0, breaks=0)).assert_outcomes(passed=1)


def test_points_that_are_not_met_again_are_not_said_to_be_covered(suite):
    """As little as a sweep that nobody asked for is silent on what it covered."""
    result = suite(
        """
        import asyncio, pytest

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=1)
        async def test_it(user):
            for _ in range(10 if user._label == "solo-06" else 0):  # whose points are listed
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            user.observe(user.id)
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it: cancel sweep: 1 of 11 points, 10 not met again"])


# A connection is made for the first user, and again when one was dropped; whoever is cut in the handshake leaves it half made.
COLD = """
    import asyncio, pytest

    class Connection:
        greeting = None

        async def open(self, note):
            {order}

    connection = None

    async def ask(note):
        global connection
        if connection is None:
            new = Connection()
            if {early}:
                connection = new
            await new.open(note)
            connection = new
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            connection = None
            raise
        return connection.greeting

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=1{more})
    async def test_it(user):
        user.observe([user.id, await ask(user.secret("note"))])
"""
LATE = "await asyncio.sleep(0); self.greeting = 'hello'"


def test_a_connection_that_is_made_again_after_a_cut_is_cut_as_well(suite):
    """A half made one that others are given is found, though nobody who is alone makes one; and is found again."""
    result = suite(COLD.format(order=LATE, early=True, more=""))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "DIFFERENT  probe-* saw another response than alone",
            "  phase     cancel sweep 2/2: * was cancelled while it waited in test_it.py:* in ask*, then * in open*",
            "  replay    *--isolation-replay=cancel:1+*",
        ]
    )
    token = token_of(result)
    again = suite(COLD.format(order=LATE, early=True, more=""), f"--isolation-replay={token}")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*, then * was cancelled while it waited in test_it.py:* in open*"])


def test_a_connection_that_nobody_gets_before_it_is_made_passes(suite):
    """The report says that its points were covered too."""
    result = suite(COLD.format(order=LATE, early=False, more=""))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*cancel sweep: 1 of 1 points; and 1 of 1 that are met only after a cut"])


def test_what_only_the_very_first_run_meets_is_said(suite):
    """Nobody can be cut there a second time."""
    result = suite(
        """
        import asyncio, pytest

        warm = False

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=1)
        async def test_it(user):
            global warm
            if not warm:
                await asyncio.sleep(0)
                warm = True
            await asyncio.sleep(0)
            user.observe(user.id)
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 point of the very first run was not met again, so nobody was cut there*"])


def test_sweeps_are_counted_in_the_report(suite, pytester):
    suite(SLOTS.format(more="", **CAREFUL), "-p", "no:asyncio", "--isolation-report=report.json").assert_outcomes(
        passed=2
    )
    results = json.loads((pytester.path / "report.json").read_text())["results"]
    for result in results:
        assert {"cancel sweep", "crowd after the sweep"} <= {phase["phase"] for phase in result["phases"]}


@pytest.mark.parametrize(
    "keyword, said",
    [
        ("cancel=3", "isolation(cancel=3): True cancels users at every suspension point, False nowhere"),
        ("cancle=True", "did you mean 'cancel'?"),
        ("faults=['reset']", "isolation(faults=['reset']): True, or the exceptions that are to be raised"),
        ("faults=KeyboardInterrupt", "True, or the exceptions that are to be raised"),
        ("faults=[OSError('x')]", "by a function that makes one: faults=[ConnectionResetError, lambda: MyError("),
        ("faults=[lambda: 3]", "isolation(faults=[<lambda>]): it makes 3, which is no exception"),
    ],
)
def test_wrong_keywords_are_refused(suite, keyword, said):
    result = suite(
        f"import pytest\n@pytest.mark.asyncio\n@pytest.mark.isolation({keyword})\nasync def test(user): pass"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()


@pytest.mark.parametrize("keyword", ["cancel=True", "faults=True"])
def test_a_sync_scenario_cannot_be_cut(suite, keyword):
    result = suite(f"import pytest\n@pytest.mark.isolation({keyword})\ndef test(user): user.observe(user.id)")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*needs an async test: a sync body gives up control nowhere*"])
