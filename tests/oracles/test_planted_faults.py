"""What no secret tells: a wrong answer, a bad ending, a response that others may keep, and what a cut user leaves."""

import textwrap

# pytester forgets what an inner run has imported, and a library that is there twice does not know its own exceptions.
import httpx  # noqa: F401
import pytest
import starlette.applications
import starlette.responses
import starlette.routing  # noqa: F401

import pytest_isolation.targets.asgi  # noqa: F401

HEAD = """
    import asyncio, contextvars, pytest
    pytestmark = pytest.mark.asyncio
"""
CROWD = """
    @pytest.mark.isolation(users=6)
    async def test_it(user):
        user.observe(await handle(user.id))
"""
SERVED = """
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    @pytest.fixture
    def isolation_app():
        return Starlette(routes=[Route("/me", me)])
    @pytest.mark.isolation(users=6)
    async def test_it(user):
        await user.http.get("/me", headers={"Authorization": user.secret("token")})
"""
CUT = """
    class Connection:
        def __init__(self): self.replies = asyncio.Queue()
        async def ask(self, text):
            asyncio.get_running_loop().call_later(0.002, self.replies.put_nowait, text)
            return await self.replies.get()
    free = []
    @pytest.mark.isolation(users=3, {more})
    async def test_it(user):
        user.observe(await handle(user.secret("note")))
"""
# Each: the fault, its correct twin, the test, and the lines of the report.
FAULTS = {
    "an answer that depends on who else is there": (
        """
        there = 0
        async def handle(user_id):
            global there
            there += 1
            await asyncio.sleep(0)
            seen, there = there, there - 1
            return {"id": user_id, "balance": 100 * seen}
        """,
        """
        there = contextvars.ContextVar("there", default=0)
        async def handle(user_id):
            there.set(there.get() + 1)
            await asyncio.sleep(0)
            return {"id": user_id, "balance": 100 * there.get()}
        """,
        CROWD,
        [
            "DIFFERENT  user-0* saw another response than alone",
            "  channel   response, at $.balance",
            '  expected  *"100"',
        ],
    ),
    "an answer that is lost": (
        """
        inbox = []
        async def handle(user_id):
            inbox.append(user_id)
            await asyncio.sleep(0)
            mine = [one for one in inbox if one == user_id]
            inbox.clear()
            return mine
        """,
        """
        async def handle(user_id):
            inbox = [user_id]
            await asyncio.sleep(0)
            return inbox
        """,
        CROWD,
        ["DIFFERENT  user-01 saw another response than alone"],
    ),
    "a user who fails when others are there": (
        """
        is_open = False
        async def handle(user_id):
            global is_open
            if is_open: raise RuntimeError("it is open already")
            is_open = True
            await asyncio.sleep(0)
            is_open = False
            return user_id
        """,
        """
        lock = asyncio.Lock()
        async def handle(user_id):
            async with lock:
                await asyncio.sleep(0)
            return user_id
        """,
        CROWD,
        ["*FAILED  user-01 failed, though the scenario ended well for those who were alone before"],
    ),
    "a user who waits for ever": (
        """
        waiting = {}
        async def handle(user_id):
            waiting["last"] = asyncio.Event()
            asyncio.get_running_loop().call_later(0.001, lambda: waiting["last"].set())
            await waiting["last"].wait()
            return user_id
        """,
        """
        async def handle(user_id):
            own = asyncio.Event()
            asyncio.get_running_loop().call_later(0.001, own.set)
            await own.wait()
            return user_id
        """,
        CROWD,
        ["STARVED  user-00 never got to the end, though the scenario ended well for those who were alone before"],
    ),
    "a response that a shared cache may keep": (
        """
        async def me(request):
            return JSONResponse({"me": request.headers["authorization"]}, headers={"Cache-Control": "public, max-age=60"})
        """,
        """
        async def me(request):
            return JSONResponse({"me": request.headers["authorization"]}, headers={"Cache-Control": "private, max-age=60"})
        """,
        SERVED,
        ["CACHEABLE  a shared cache may keep what user-00 was answered to GET *"],
    ),
    "a connection that a cancelled user gives back": (
        """
        async def handle(note):
            connection = free.pop() if free else Connection()
            try:
                return await connection.ask(note)
            finally:
                free.append(connection)
        """,
        """
        async def handle(note):
            connection = free.pop() if free else Connection()
            answer = await connection.ask(note)
            free.append(connection)
            return answer
        """,
        CUT.replace("{more}", "cancel=True"),
        ["LEAK  probe-* received the secret 'note' of user-*", "  phase     cancel sweep */*: user-* was cancelled *"],
    ),
    "a connection that is given back after a timeout": (
        """
        async def handle(note):
            connection = free.pop() if free else Connection()
            try:
                async with asyncio.timeout(60):
                    answer = await connection.ask(note)
            except TimeoutError:
                free.append(connection)
                raise
            free.append(connection)
            return answer
        """,
        """
        async def handle(note):
            connection = free.pop() if free else Connection()
            async with asyncio.timeout(60):
                answer = await connection.ask(note)
            free.append(connection)
            return answer
        """,
        CUT.replace("{more}", "cancel=False, faults=[asyncio.timeout]"),
        [
            "LEAK  probe-* received the secret 'note' of user-*",
            "  phase     fault sweep with timeout */*: user-* ran out *",
        ],
    ),
    "a slot that a cancelled user keeps": (
        """
        class Slots:
            free = 1
        async def handle(note):
            if not Slots.free: return "busy"
            Slots.free -= 1
            await asyncio.sleep(0)
            Slots.free += 1
            return note
        """,
        """
        class Slots:
            free = 1
        async def handle(note):
            Slots.free -= 1
            try:
                await asyncio.sleep(0)
            finally:
                Slots.free += 1
            return note
        """,
        CUT.replace("users=3", "users=1").replace("{more}", "cancel=True"),
        [
            "DIFFERENT  probe-00 saw another response than alone",
            "  phase     cancel sweep 1/1: user-* was cancelled while it waited in *",
        ],
    ),
}


def play(suite, *parts):
    return suite("\n".join(textwrap.dedent(part) for part in (HEAD, *parts)), "-W", "default")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(suite, fault, monkeypatch):
    """Who, what, and in which phase."""
    monkeypatch.setattr("pytest_isolation.playbook._LEAST_PATIENCE_S", 1.0)  # who waits for ever has starved soon
    faulty, _, test, lines = FAULTS[fault]
    result = play(suite, faulty, test)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(lines)


@pytest.mark.parametrize("fault", FAULTS)
def test_its_correct_twin_is_silent(suite, fault, twin):
    """Nobody is accused who did nothing."""
    _, correct, test, _ = FAULTS[fault]
    twin.is_silent(play(suite, correct, test))
