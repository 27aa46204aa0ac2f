"""What an application does that is served in this process counts as done for the user whose request it is."""

import textwrap

import pytest

# pytester forgets what an inner run has imported, and a library that is there twice does not know its own exceptions.
import websockets.asyncio.client  # noqa: F401

import pytest_isolation.targets.asgi
import pytest_isolation.targets.websocket  # noqa: F401

ASGI = """
    import asyncio, logging, pytest
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route, WebSocketRoute

    last, tasks, log = dict(), set(), logging.getLogger("shop")

    async def said(note):
        last["note"] = note
        await asyncio.sleep(0.001)
        log.warning("saved %s", last["note"] if {leaky} else note)

    async def logs(request):
        await said(request.headers["x-note"])
        return JSONResponse(sorted(request.headers))

    async def leaves(request):
        if {leaky}:
            tasks.add(asyncio.create_task(asyncio.sleep(60)))
        return JSONResponse("ok")

    async def ws(socket):
        await socket.accept()
        await said(await socket.receive_text())
        await socket.send_json(sorted(socket.headers))
        await socket.close()

    app = Starlette(routes=[Route("/logs", logs), Route("/leaves", leaves), WebSocketRoute("/ws", ws)])

    @pytest.fixture
    def isolation_app():
        return app

    {proxy}

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=4, cancel=False)
    async def test_it(user):
        {does}
        user.observe(user.id)
"""
PROXY = "from pytest_isolation import Proxy; isolation_proxy = pytest.fixture(lambda: Proxy(connections=2))"
DOES = {
    "http": 'assert "x-pytest-isolation-user" not in '
    '(await user.http.get("/logs", headers={"x-note": user.secret("note")})).json()',
    "websocket": """async with user.websocket("/ws") as socket:
            await socket.send(user.secret("note"))
            assert "x-pytest-isolation-user" not in await socket.recv()""",
    "tasks": 'await user.http.get("/leaves")',
}
FOUND = {
    "http": "LEAK  the work of user-* logged or printed the secret 'note' of user-*",
    "websocket": "LEAK  the work of user-* logged or printed the secret 'note' of user-*",
    "tasks": "LEFT  user-00 left a task behind: sleep at *",
}


@pytest.mark.parametrize("does, proxy", [*((does, "") for does in DOES), ("http", PROXY)])
def test_what_an_application_does_for_a_user_is_that_users_work(suite, does, proxy):
    """What it logs bears no secret of another, and nothing it starts goes on; the application sees no mark of it."""
    result = suite(ASGI.format(leaky=True, does=DOES[does], proxy=proxy))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([FOUND[does]])
    suite(ASGI.format(leaky=False, does=DOES[does], proxy=proxy)).assert_outcomes(passed=1)


WSGI = """
    import pytest, time

    last = {}

    def app(environ, start_response):
        assert "HTTP_X_PYTEST_ISOLATION_USER" not in environ
        last["note"] = environ["HTTP_X_NOTE"]
        time.sleep(0.002)
        print("saved", last["note"] if {leaky} else environ["HTTP_X_NOTE"])
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    @pytest.fixture
    def isolation_app():
        return app

    @pytest.mark.isolation(users=4)
    def test_it(user):
        assert user.http.get("/", headers={"x-note": user.secret("note")}).text == "ok"
        user.observe(user.id)
"""


def test_so_it_is_in_the_threads_of_a_wsgi_application(suite):
    """Which work for one user after another."""
    result = suite(WSGI.replace("{leaky}", "True"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  the work of user-* logged or printed the secret 'note' of user-*", "*stdout*"])
    suite(WSGI.replace("{leaky}", "False")).assert_outcomes(passed=1)


REMOTE = """
    import pytest

    async def app(scope, receive, send):
        if scope["type"] == "http":
            status, more = (307, [(b"location", b"http://192.0.2.1/")]) if scope["path"] == "/away" else (200, [])
            await send({"type": "http.response.start", "status": status, "headers": more})
            await send({"type": "http.response.body", "body": b"ok"})

    @pytest.fixture
    def isolation_app():
        return app

    @pytest.mark.asyncio
    async def test_it(user):
        {does}
"""


@pytest.mark.parametrize(
    "does",
    [
        'await user.http.get("http://192.0.2.1/")',
        'await user.http.get("/away", follow_redirects=True)',
        'await user.http.get("/"); await user.websocket("/ws", host="192.0.2.1").__aenter__()',
    ],
)
def test_a_request_to_another_machine_is_refused(suite, does):
    """As an application there is: by its address, by a redirect, by an option."""
    result = suite(textwrap.dedent(REMOTE).replace("{does}", does))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*a user was to reach 192.0.2.1, which is not this machine*--isolation-allow-remote*"])
