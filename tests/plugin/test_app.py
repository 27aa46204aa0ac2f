"""isolation_app: an application on a real socket, to which every user of a crowd talks with clients of its own."""

import textwrap
import threading

import httpx
import psutil
import pytest
import uvicorn

# pytester forgets what an inner run has imported, and a library that is there twice does not know its own exceptions.
import websockets.asyncio.client
import websockets.sync.client
import websockets.trio.client  # noqa: F401

import pytest_isolation.targets.asgi
import pytest_isolation.targets.websocket

SHOP = """
    import asyncio, json
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route, WebSocketRoute

    last = {}

    async def answer(value, leaky):
        last["note"] = value
        await asyncio.sleep(0.01)
        return {"note": last["note"] if leaky else value}

    def app(leaky):
        async def http(request):
            return JSONResponse(await answer(request.query_params["note"], leaky))
        async def ws(socket):
            await socket.accept()
            async for text in socket.iter_text():
                await socket.send_json(await answer(text, leaky))
        return Starlette(routes=[Route("/notes", http), WebSocketRoute("/ws", ws)])

    leaky, sound = app(True), app(False)
"""
CONFTEST = """
    import pytest, shop
    @pytest.fixture(params=["leaky", "sound"])
    def isolation_app(request): return getattr(shop, request.param)
"""
ASYNC = """
    import json, pytest
    {mark}
    @pytest.mark.isolation(users=6, cancel=False)
    async def test_http(user):
        answer = await user.http.get("/notes", params={{"note": user.secret("note")}})
        assert answer.status_code == 200
    {mark}
    @pytest.mark.isolation(users=6, cancel=False)
    async def test_websocket(user):
        async with user.websocket("/ws") as socket:
            await socket.send(user.secret("note"))
            assert set(json.loads(await socket.recv())) == {{"note"}}
"""
SYNC = """
    import json, pytest
    @pytest.mark.isolation(users=6, cancel=False)
    def test_http(user):
        answer = user.http.get("/notes", params={"note": user.secret("note")})
        assert answer.status_code == 200
    @pytest.mark.isolation(users=6, cancel=False)
    def test_websocket(user):
        with user.websocket("/ws") as socket:
            socket.send(user.secret("note"))
            assert set(json.loads(socket.recv())) == {"note"}
"""
MODES = {
    "pytest-asyncio strict": ("@pytest.mark.asyncio", "", ("-p", "no:anyio")),
    "pytest-asyncio auto": ("", "asyncio_mode = auto", ()),
    "anyio on asyncio and trio": ("@pytest.mark.anyio", "", ("-p", "no:asyncio")),
}


@pytest.fixture(autouse=True)
def nothing_left():
    """No thread, no process and no socket outlives a test, however it ended."""
    this = psutil.Process()
    before, processes = (set(threading.enumerate()), _sockets(this)), set(this.children(recursive=True))
    yield
    assert not [thread for thread in threading.enumerate() if thread not in before[0] and "isolation" in thread.name]
    assert set(this.children(recursive=True)) <= processes
    assert _sockets(this) <= before[1]


def _sockets(process):
    return {(one.fd, one.laddr) for one in process.net_connections()}


@pytest.fixture
def app_suite(suite, pytester):
    """A suite whose conftest.py overrides `isolation_app` by this expression."""

    def run(source, app, *options, login="", how="inprocess", **files):
        head = "import os, sys, pytest\n" + "".join(f"import {name}\n" for name in files)
        hook = f"{textwrap.dedent(login)}\n@pytest.fixture\ndef isolation_login(): return login\n" if login else ""
        pytester.makeconftest(f"{head}@pytest.fixture\ndef isolation_app(): return {app}\n{hook}")
        return suite(source, *options, how=how, **files)

    return run


@pytest.mark.parametrize("mode", MODES)
def test_a_crowd_finds_a_leak_over_real_sockets_and_its_twin_is_silent(suite, pytester, mode):
    """A module global that is written before an await; over HTTP and over a WebSocket."""
    mark, ini, options = MODES[mode]
    pytester.makeconftest(CONFTEST)
    result = suite(ASYNC.format(mark=mark), *options, ini=ini, shop=textwrap.dedent(SHOP))
    loops = 2 if "anyio" in mode else 1
    result.assert_outcomes(passed=2 * loops, failed=2 * loops)
    result.stdout.fnmatch_lines_random(
        [
            "LEAK  user-0* received the secret 'note' of user-0*",
            "  channel   GET /notes, at $.body.note*",
            "  channel   WS /ws, at $.note*",
        ]
    )


def test_a_sync_test_has_sync_clients(suite, pytester):
    """Its crowd plays in threads, each with a client of its own."""
    pytester.makeconftest(CONFTEST)
    result = suite(SYNC, shop=textwrap.dedent(SHOP))
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines_random(["  channel   GET /notes, at $.body.note*", "  channel   WS /ws, at $.note*"])


STATELESS = """
    import pytest
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3, cancel=False)
    async def test(user):
        await user.http.get("/notes", params={"note": user.secret("note")})
"""
FLASK_LIKE = """
    import json, threading, time
    from urllib.parse import parse_qs
    local = threading.local()

    def app(leaky):
        def wsgi(environ, start_response):
            note = parse_qs(environ["QUERY_STRING"])["note"][0]
            before = getattr(local, "note", note)
            local.note = note
            time.sleep(0.001)
            body = json.dumps({"note": note, "before": before if leaky else note}).encode()
            if not leaky: del local.note  # nobody needs it until the next one comes
            start_response("200 OK", [("Content-Type", "application/json")])
            return [body]
        return wsgi

    leaky, sound = app(True), app(False)
"""


@pytest.mark.parametrize(("name", "outcome"), [("leaky", "failed"), ("sound", "passed")])
def test_a_wsgi_application_is_served_by_a_few_threads_that_answer_one_user_after_another(app_suite, name, outcome):
    """What it leaves in a thread-local reaches the next user of the thread."""
    result = app_suite(STATELESS, f"shop.{name}", shop=textwrap.dedent(FLASK_LIKE))
    result.assert_outcomes(**{outcome: 1})
    if name == "leaky":
        result.stdout.fnmatch_lines(
            ["LEAK * received the secret 'note' of *", "  channel   GET /notes*, at $.body.before*"]
        )


def test_a_command_is_started_with_a_port_and_ended(app_suite):
    """Whatever it is that serves, and in whatever environment."""
    app = '[sys.executable, "-m", "uvicorn", "shop:leaky", "--port", "{port}"]'
    result = app_suite(STATELESS, app, shop=textwrap.dedent(SHOP))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  user-0* received the secret 'note' of user-0*"])


def test_what_a_command_starts_ends_with_it(app_suite):
    """A server with workers of its own that ignores a polite word."""
    source = """
        import os, signal, subprocess, sys
        from http.server import HTTPServer, BaseHTTPRequestHandler
        if __name__ == "__main__":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if len(sys.argv) == 2: subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"]).wait()
            HTTPServer(("127.0.0.1", int(sys.argv[1])), BaseHTTPRequestHandler).serve_forever()
    """
    import pytest_isolation.targets.command as command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_CLOSING_S", 0.2)
        result = app_suite(
            "import pytest\n@pytest.mark.latency(p50_ms=5000)\ndef test(user): user.http.get('/')",
            '[sys.executable, "stubborn.py", "{port}"]',
            stubborn=textwrap.dedent(source),
        )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("app", ["'shop:sound'", "'shop:make'"])
def test_an_application_is_found_by_its_name(app_suite, app):
    """Or a function that makes it."""
    source = textwrap.dedent(SHOP) + "\ndef make(): return sound\n"
    app_suite(STATELESS, app, shop=source).assert_outcomes(passed=1)


def test_a_url_is_taken_as_it_is(app_suite):
    """A server that somebody else has started, on this machine."""
    from pytest_isolation.targets.wsgi import WsgiServer

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["QUERY_STRING"].encode()]

    server = WsgiServer(app)
    try:
        app_suite(STATELESS, repr(server.url)).assert_outcomes(passed=1)
    finally:
        server.close()


def test_a_url_of_another_machine_is_refused(app_suite):
    """Crowds and secrets are sent there only if somebody says so."""
    result = app_suite(STATELESS, "'https://shop.example'")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*'https://shop.example'*not this machine*--isolation-allow-remote*"])
    result = app_suite(STATELESS, "'https://shop.invalid'", "--isolation-allow-remote")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ConnectError*"])
    result.stdout.no_fnmatch_line("*not this machine*")


BROKEN = """
    from contextlib import asynccontextmanager
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from starlette.types import ASGIApp

    @asynccontextmanager
    async def no_start(app):
        raise RuntimeError("no database at 10.0.0.1")
        yield

    @asynccontextmanager
    async def no_end(app):
        yield
        raise RuntimeError("no farewell")

    async def notes(request): return JSONResponse({"note": request.query_params["note"]})
    routes = [Route("/notes", notes)]
    starts_not, ends_not = Starlette(lifespan=no_start), Starlette(routes=routes, lifespan=no_end)
    number = 3
    def unclear(*args): ...
    def fails(): raise RuntimeError("no settings")
    async def late(): ...
"""
ERRORS = {
    "None": "*isolation_app is None, and this cannot be served. Return an ASGI or a WSGI application*",
    "shop.starts_not": "RuntimeError: no database at 10.0.0.1",
    "shop.unclear": "*its signature does not say whether it is ASGI or WSGI*",
    "shop.Starlette": "*its signature does not say whether it is ASGI or WSGI*",
    "shop.fails": "*fails() raised RuntimeError: no settings*",
    "shop.late": "*late() is async; what has to be awaited belongs into the app's lifespan*",
    "'shop'": "*'shop', which is neither a URL nor pkg.mod:app*",
    "'shop:starts'": "*shop has no 'starts'; did you mean*",
    "'shop:number'": "*'shop:number' is 3, which cannot be called*",
    "'nothing:app'": "*there is no module 'nothing' to import*",
    "[]": "*a command is a list of texts*",
    "['serve', 8000]": "*a command is a list of texts*",
    "['serve', '--port', '8000']": "*does not say where its port belongs: write {port}*",
    "['no-such-program', '{port}']": "*no-such-program * cannot be started: *No such file*",
    "[sys.executable, '-c', 'exit(\"no {port} today\")']": "*ended with exit code 1 before it answered:",
}


@pytest.mark.parametrize("app", ERRORS)
def test_what_cannot_be_served_says_so(app_suite, app):
    """In its own words where it has some."""
    result = app_suite(STATELESS, app, shop=textwrap.dedent(BROKEN))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*pytest-isolation: isolation_app*"])
    result.stdout.fnmatch_lines([ERRORS[app]])


def test_an_application_that_does_not_get_ready_is_not_waited_for_forever(app_suite, monkeypatch):
    """A lifespan that waits for a database that never comes."""
    import pytest_isolation.targets.asgi as asgi

    monkeypatch.setattr(asgi, "_STARTING_S", 0.2)
    app = """
        import asyncio
        async def app(scope, receive, send):
            await receive()
            await asyncio.sleep(3600)
    """
    result = app_suite(STATELESS, "slow.app", slow=textwrap.dedent(app))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*isolation_app is not ready after 0.2 s*"])


def test_an_application_that_fails_as_it_shuts_down_says_so(app_suite):
    """As an error of the teardown."""
    result = app_suite(STATELESS, "shop.ends_not", shop=textwrap.dedent(BROKEN))
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*isolation_app failed as it shut down*", "RuntimeError: no farewell"])


@pytest.mark.parametrize("use", ["await user.http.get('/')", "user.websocket('/')"])
def test_without_an_application_the_error_shows_how_to_name_one(suite, use):
    """The first thing that somebody meets who has not read the page."""
    result = suite(f"import pytest\n@pytest.mark.asyncio\nasync def test(user): {use}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*pytest-isolation: no application was named. Override the fixture `isolation_app` in conftest.py:"]
    )


def test_asking_for_the_application_itself_shows_it_too(suite):
    """There is nothing to hand out."""
    result = suite("def test(isolation_app): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no application was named*", "    def isolation_app():"])


def test_a_missing_library_is_named_with_its_extra(app_suite):
    """The plugin itself needs none of them, and each is missed only where it is used."""
    source = """
        import sys, pytest
        pytestmark = [pytest.mark.asyncio, pytest.mark.isolation(users=2)]
        async def test_websockets(user, monkeypatch):  # first: uvicorn imports it too
            monkeypatch.setitem(sys.modules, "websockets", None)
            user.websocket("/")
        async def test_uvicorn(user, monkeypatch):
            monkeypatch.setitem(sys.modules, "uvicorn", None)
            await user.http.get("/")
        async def test_httpx(user, monkeypatch):
            monkeypatch.setitem(sys.modules, "httpx", None)
            await user.http.get("/")
    """
    result = app_suite(source, "shop.sound", how="subprocess", shop=textwrap.dedent(SHOP))
    result.assert_outcomes(failed=3)
    for needs in ("an ASGI application", "user.http", "user.websocket()"):
        result.stdout.fnmatch_lines([f"*{needs}*pip install 'pytest-isolation[[]asgi]'*"])


@pytest.mark.parametrize(("mark", "fixture"), [("asyncio", "pytest_asyncio"), ("anyio", "pytest")])
def test_the_fixture_may_be_async(suite, pytester, mark, fixture):
    """It is made in the loop of the test, and what it returns is served in another."""
    pytester.makeconftest(
        f"""
        import {fixture}, shop
        @{fixture}.fixture
        async def isolation_app():
            yield shop.sound
        """
    )
    result = suite(STATELESS.replace("asyncio", mark), shop=textwrap.dedent(SHOP))
    result.assert_outcomes(passed=2 if mark == "anyio" else 1)


MANY = """
    import pytest
    @pytest.mark.asyncio
    async def test_users(users):
        for user in users(2):
            await user.http.get("/notes", params={"note": user.secret("note")})
    @pytest.mark.asyncio
    async def test_check(isolation):
        async def scenario(user):
            await user.http.get("/notes", params={"note": user.secret("note")})
        await isolation.check(scenario, users=3, cancel=False)
    @pytest.mark.asyncio
    @pytest.mark.latency(p50_ms=5000)
    async def test_latency(user):
        await user.http.get("/notes", params={"note": user.secret("note")})
    @pytest.mark.latency(p50_ms=5000)
    def test_sync_latency(user):
        user.http.get("/notes", params={"note": user.secret("note")})
"""


def test_users_reach_it_however_they_were_made(app_suite):
    """Several in one test, those of a check from code, and the one of a measurement; every client is closed."""
    result = app_suite(MANY, "shop.sound", shop=textwrap.dedent(SHOP))
    result.assert_outcomes(passed=4)


def test_it_is_not_started_for_a_test_that_does_not_talk_to_it(app_suite):
    """A suite has other tests too, and an application that does not start is none of theirs."""
    app_suite("def test(user): pass", "shop.starts_not", shop=textwrap.dedent(BROKEN)).assert_outcomes(passed=1)


@pytest.mark.parametrize("app", ["shop.sound", '[sys.executable, "-m", "uvicorn", "shop:sound", "--port", "{port}"]'])
def test_it_is_stopped_on_ctrl_c(app_suite, app):
    """In the midst of a scenario."""
    source = STATELESS + "        raise KeyboardInterrupt\n"
    with pytest.raises(KeyboardInterrupt):
        app_suite(source, app, shop=textwrap.dedent(SHOP))


def test_it_is_stopped_when_a_user_waits_for_an_answer_that_never_comes(app_suite, monkeypatch):
    """A request that hangs is a finding, and nobody waits for it at the end."""
    import pytest_isolation.playbook as engine
    import pytest_isolation.targets.asgi as asgi

    monkeypatch.setattr(engine, "_LEAST_PATIENCE_S", 0.5)
    monkeypatch.setattr(engine, "_PATIENCE", 0)
    monkeypatch.setattr(asgi, "_LAST_REQUESTS_S", 0.1)
    source = textwrap.dedent(SHOP).replace(
        "return {", "if len(last) and crowd(value): await asyncio.sleep(3600)\n    return {"
    )
    source += "\nseen = []\ndef crowd(value):\n    seen.append(value)\n    return len(seen) == 8\n"
    result = app_suite(STATELESS, "shop.sound", shop=source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["STARVED  user-0* never got to the end*"])


CHAT = """
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route, WebSocketRoute

    async def login(request):
        answer = JSONResponse({"token": request.query_params["name"]})
        answer.set_cookie("session", request.query_params["name"])
        return answer

    async def ws(socket):
        if "session" not in socket.cookies:
            await socket.close()
            return
        await socket.accept()
        await socket.send_json([socket.cookies["session"], socket.headers.get("authorization")])
        await socket.send_bytes(bytes([255]))
        await socket.send_text(await socket.receive_text())
        await socket.close()

    app = Starlette(routes=[Route("/login", login), WebSocketRoute("/rooms/{room}/ws", ws)])
"""
TALK = """
    import json, pytest
    MARK
    @pytest.mark.isolation(users=4, cancel=False)
    async def test(user):
        await user.http.get("/login", params={"name": user.secret("session")})
        user.http.headers["authorization"] = "Bearer me"
        async with user.websocket(f"/rooms/{user.id}/ws?a=1") as socket:
            await socket.send("hello")
            heard = [message async for message in socket]
        assert json.loads(heard[0]) == [user.secret("session"), "Bearer me"]
        assert heard[1:] == [bytes([255]), "hello"]
"""


@pytest.mark.parametrize("mark", ["@pytest.mark.asyncio", "@pytest.mark.anyio"])
def test_a_websocket_brings_the_cookies_and_the_token_of_the_user(app_suite, mark):
    """As a browser does; on asyncio and on trio."""
    result = app_suite(TALK.replace("MARK", mark), "chat.app", chat=textwrap.dedent(CHAT))
    result.assert_outcomes(passed=2 if "anyio" in mark else 1)


def test_a_sync_websocket_does_too(app_suite):
    """The same scenario without a loop."""
    source = TALK.replace("MARK", "").replace("async ", "").replace("await ", "")
    app_suite(source, "chat.app", chat=textwrap.dedent(CHAT)).assert_outcomes(passed=1)


def test_a_websocket_that_is_refused_is_an_error_of_the_user(app_suite):
    """The server's answer is told."""
    source = TALK.replace("MARK", "@pytest.mark.asyncio").replace("await user.http.get", "str")
    source = source.replace('("/login", params={"name": user.secret("session")})', '("/login")')
    result = app_suite(source, "chat.app", chat=textwrap.dedent(CHAT))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*server rejected WebSocket connection: HTTP 403*"])


WHO = """
    import pytest
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=4, cancel=False)
    async def test(user):
        answer = await user.http.get("/who")
        assert answer.text == user.secret("name")
"""
WHO_APP = """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def login(request):
        answer = PlainTextResponse("welcome")
        answer.set_cookie("name", request.query_params["name"])
        return answer

    async def who(request): return PlainTextResponse(request.cookies.get("name", "nobody"))

    app = Starlette(routes=[Route("/login", login), Route("/who", who)])
"""
LOGIN = """
    async def login(user, client):
        assert client is user.http
        (await client.get("/login", params={"name": user.secret("name")})).raise_for_status()
"""


def test_users_log_in_before_the_scenario(app_suite):
    """By a hook that is written once for all tests."""
    app_suite(WHO, "who.app", login=LOGIN, who=textwrap.dedent(WHO_APP)).assert_outcomes(passed=1)


def test_users_of_a_sync_scenario_log_in_too(app_suite):
    """The hook is a plain function there."""
    plainly = [text.replace("async ", "").replace("await ", "") for text in (WHO, LOGIN)]
    source = plainly[0].replace("@pytest.mark.asyncio", "")
    app_suite(source, "who.app", login=plainly[1], who=textwrap.dedent(WHO_APP)).assert_outcomes(passed=1)
    result = app_suite(source, "who.app", login=LOGIN, who=textwrap.dedent(WHO_APP))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*isolation_login is async, and this test is not*"])


def test_a_login_that_fails_is_named(app_suite):
    """And not the scenario, which has not begun."""
    login = LOGIN.replace('"/login"', '"/signin"')
    result = app_suite(WHO, "who.app", login=login, who=textwrap.dedent(WHO_APP))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*isolation_login failed for <solo-00>: HTTPStatusError: *404*"])


def test_a_login_that_is_no_function_is_refused(app_suite):
    """A coroutine that was made already, for example."""
    result = app_suite(WHO, "who.app", login="login = 'alice'", who=textwrap.dedent(WHO_APP))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'alice' cannot be called*async def login(user, client)*"])


BOTH = """
    import pytest
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=8, anonymous=0.25, cancel=False)
    async def test(user):
        answer = await user.http.get("/who")
        if not user.anonymous: assert answer.text == user.secret("name")
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3, anonymous=1, cancel=False)
    async def test_nobody_logs_in(user):
        assert user.anonymous and user.id
        await user.http.get("/who")
"""


@pytest.mark.parametrize(("fault", "outcome"), [("", "passed"), ("last", "failed")])
def test_some_users_may_be_anonymous(app_suite, fault, outcome):
    """They do not log in, and are told another story; that of somebody else is a leak all the same."""
    app = textwrap.dedent(WHO_APP)
    if fault:
        app = app.replace(
            'request.cookies.get("name", "nobody")', 'last.setdefault("name", request.cookies.get("name", "nobody"))'
        )
        app = app.replace("async def login", "last = {}\nasync def login").replace(
            "answer = Plain", "last.clear()\n    answer = Plain"
        )
    result = app_suite(BOTH, "who.app", "-W", "ignore::pytest_isolation.IsolationWarning", login=LOGIN, who=app)
    result.assert_outcomes(**{outcome: 2})
    if fault:
        result.stdout.fnmatch_lines(["LEAK  solo-01 received the secret 'name' of solo-00"])
        result.stdout.no_fnmatch_line('*sees alone: "<name of solo-01>"')


def test_an_application_that_blocks_its_loop_is_warned_of(app_suite, monkeypatch):
    """It cannot be ended from outside."""
    import pytest_isolation.targets.asgi as asgi

    monkeypatch.setattr(asgi, "_CLOSING_S", 0.2)
    monkeypatch.setattr(asgi, "_CANCELLING_S", 0.1)
    app = """
        import time
        from contextlib import asynccontextmanager
        from starlette.applications import Starlette

        @asynccontextmanager
        async def lifespan(app):
            yield
            time.sleep(1)

        app = Starlette(lifespan=lifespan)
    """
    source = "import pytest\n@pytest.mark.latency(p50_ms=5000)\ndef test(user): user.http.get('/')"
    result = app_suite(source, "slow.app", "-W", "always", slow=textwrap.dedent(app))
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*IsolationWarning: isolation_app did not end within 0.2 s*blocks its event loop*"])
    for thread in threading.enumerate():
        if thread.name == "isolation_app":
            thread.join(30)


def test_a_personal_answer_that_shared_caches_may_keep_is_a_finding(suite, pytester):
    """No cache needs to be there for it; as in CVE-2023-30861."""
    pytester.makepyfile(
        shop="""
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        def app(**headers):
            async def hello(request):
                answer = PlainTextResponse("hello", headers=headers)
                answer.set_cookie("session", request.headers["x-name"])
                return answer
            return Starlette(routes=[Route("/", hello)])
        apps = {"leaky": app(), "sound": app(vary="Cookie")}
        """
    )
    pytester.makeconftest(
        "import pytest, shop\n@pytest.fixture(params=shop.apps)\ndef isolation_app(request): return shop.apps[request.param]"
    )
    result = suite(
        """
        import pytest
        @pytest.mark.isolation(users=2)
        def test(user): user.http.get("/", headers={"x-name": user.id})
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["CACHEABLE  a shared cache may keep what user-00 was answered to GET http://*: it sets a cookie*"]
    )


EVENTS = """
    import asyncio, json
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    free = []

    def app(careful):
        async def told(request):
            note = request.query_params["note"]
            events = free.pop() if free else []
            async def stream():
                try:
                    for number in range(3):
                        events.append({"number": number, "note": note})
                        await asyncio.sleep(0.001)
                        while events:
                            yield f"data: {json.dumps(events.pop(0))}\\n\\n"
                finally:
                    if careful:
                        events.clear()
                    free.append(events)
            return StreamingResponse(stream(), media_type="text/event-stream")
        return Starlette(routes=[Route("/told", told)])
"""
LISTEN = """
    import pytest
    MARK
    @pytest.mark.isolation(users=2, cancel=True)
    async def test(user):
        async with user.http.stream("GET", "/told", params={"note": user.secret("note")}) as answer:
            async for line in answer.aiter_lines():
                pass
"""


@pytest.mark.parametrize("mark", ["@pytest.mark.asyncio", pytest.param("@pytest.mark.anyio", marks=pytest.mark.soak)])
def test_a_client_that_goes_away_in_the_middle_of_a_stream_leaves_nothing_to_the_next(app_suite, mark):
    """What was not sent to it is in a buffer that goes back to a pool; server-sent events are observed one by one."""
    source = LISTEN.replace("MARK", mark)
    options = ("-p", "no:anyio") if "asyncio" in mark else ("-p", "no:asyncio", "-k", "asyncio")
    app_suite(source, "shop.app(True)", *options, shop=EVENTS).assert_outcomes(passed=1)
    result = app_suite(source, "shop.app(False)", *options, shop=EVENTS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  probe-* received the secret 'note' of *",
            "  channel   SSE /told*, at $.data.note",
            "  phase     cancel sweep *",
        ]
    )


ODDITIES = """
    import asyncio
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route
    last = {"note": ""}
    async def partial(request):
        async def stream():
            last["note"], other = request.query_params["note"], last["note"]
            yield other.encode() + b" "
            await asyncio.sleep(0.01)
            raise RuntimeError
        return StreamingResponse(stream())
    async def timing(request):
        last["note"], other = request.query_params["note"], last["note"]
        return PlainTextResponse("hello", headers={"Server-Timing": f'db;desc="{other}"'})
    async def login(request):
        answer = JSONResponse(None)
        answer.set_cookie("name", request.query_params["note"], secure=True)
        return answer
    async def me(request):
        return JSONResponse(request.cookies.get("name"))
    app = Starlette(routes=[Route(f"/{f.__name__}", f) for f in (partial, timing, login, me)])
"""


@pytest.mark.parametrize("path", ["partial", "timing"])
def test_a_leak_in_a_body_that_breaks_off_or_in_a_header_that_is_not_compared_is_found(app_suite, path):
    """Whatever has arrived by then, and wherever."""
    source = f"""
        import httpx, pytest
        @pytest.mark.isolation(users=5)
        def test(user):
            try: user.http.get("/{path}", params={{"note": user.secret("note")}})
            except httpx.HTTPError: pass
            user.observe(user.id)
    """
    result = app_suite(source, "shop.app", "-p", "no:logging", shop=ODDITIES)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  *received the secret 'note' of *"])


def test_secure_cookies_are_sent(app_suite):
    """This machine is as good as TLS, as for browsers."""
    source = """
        import pytest
        @pytest.mark.isolation(users=3)
        def test(user):
            user.http.get("/login", params={"note": user.secret("note")})
            assert user.http.get("/me").json() == user.secret("note")
    """
    app_suite(source, "shop.app", shop=ODDITIES).assert_outcomes(passed=1)


def answering(heard):
    """An application that answers anything, and notes what it is told of its lifespan."""

    async def app(scope, receive, send):
        while scope["type"] == "lifespan" and "lifespan.shutdown" not in heard:
            heard.append((await receive())["type"])
            await send({"type": f"{heard[-1]}.complete"})
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    return app


def test_it_ends_when_it_is_told_to(monkeypatch):
    """And not when it next looks whether it should; whoever had to wait for it longer would be warned."""
    monkeypatch.setattr(pytest_isolation.targets.asgi, "_TICK_S", 3600)
    pytest_isolation.targets.asgi.AsgiServer(answering(heard := [])).close()
    assert heard == ["lifespan.startup", "lifespan.shutdown"]


def test_nobody_waits_for_clients_that_have_gone(monkeypatch):
    """uvicorn would, for a tenth of a second, and only then end the lifespan."""
    monkeypatch.setattr(uvicorn.Server, "shutdown", None)
    monkeypatch.setattr(pytest_isolation.targets.asgi, "_TURNS", 10_000)  # on a busy machine it hears of it late
    server = pytest_isolation.targets.asgi.AsgiServer(answering(heard := []))
    with httpx.Client() as client:
        assert client.get(server.url).text == "ok"
    server.close()
    assert heard == ["lifespan.startup", "lifespan.shutdown"]


def test_a_websocket_may_be_left_in_the_midst_of_its_messages(app_suite):
    """And gone on with; trio complains of a generator that is left before its end."""
    source = """
        import pytest
        @pytest.mark.anyio
        @pytest.mark.isolation(users=2, cancel=False)
        async def test(user):
            await user.http.get("/login", params={"name": user.secret("session")})
            async with user.websocket(f"/rooms/{user.id}/ws?a=1") as socket:
                await socket.send("hello")
                async for message in socket:
                    first = message
                    break
                rest = [message async for message in socket]
            assert [isinstance(message, bytes) for message in (first, *rest)] == [False, True, False]
    """
    result = app_suite(source, "chat.app", "-Werror::ResourceWarning", chat=textwrap.dedent(CHAT))
    result.assert_outcomes(passed=2)
