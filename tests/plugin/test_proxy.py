"""isolation_proxy: users who share the connections to an application, or the answers that a cache keeps."""

import sys

import psutil
import pytest

import pytest_isolation.targets.asgi as asgi
import pytest_isolation.targets.proxy  # noqa: F401 - pytester forgets what an inner run has imported

SCENARIO = """
    import pytest
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=8, cancel=False)
    async def test_it(user):
        answer = await user.http.get("/me", headers={"x-user": user.id})
        assert answer.status_code == 200, answer.text
"""
# What it remembers of a connection belongs to whoever comes first; the twin remembers nothing.
REMEMBERING = """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    remembered, connections = {}, set()
    def app(leaky):
        async def me(request):
            name = request.headers["x-user"]
            connections.add(request.client)
            return PlainTextResponse(remembered.setdefault(request.client, name) if leaky else name)
        return Starlette(routes=[Route("/me", me)])
    leaky, sound = app(True), app(False)
"""
# Answers in the order in which they are ready, as twisted.web did (CVE-2023-46137); the twin in the order of requests.
PIPELINED = """
    import asyncio, sys
    async def serve(reader, writer):
        async def answer(head, before, done):
            [name] = [line[7:].strip() for line in head.split(b"\\r\\n") if line.lower().startswith(b"x-user:")]
            await asyncio.sleep(0.001 * (name[-1] % 4))
            if sys.argv[2] == "sound" and before:
                await before.wait()
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n%s" % (len(name), name))
            done.set()
        before, tasks = None, []
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            done = asyncio.Event()
            tasks.append(asyncio.create_task(answer(head, before, done)))
            before = done
    async def main():
        async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
            await server.serve_forever()
    asyncio.run(main())
"""
CACHED = """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    def app(**headers):
        async def me(request):
            return PlainTextResponse(request.headers["x-user"], headers=headers)
        return Starlette(routes=[Route("/me", me)])
    apps = {
        "for a minute": app(**{"cache-control": "max-age=60"}),
        "not forbidden": app(),
        "varies": app(**{"cache-control": "max-age=60", "vary": "X-User"}),
        "private": app(**{"cache-control": "private, max-age=60"}),
    }
"""


@pytest.fixture(autouse=True)
def nothing_left():
    """No connection and no process outlives a test."""
    this = psutil.Process()
    before, processes = _sockets(this), set(this.children(recursive=True))
    yield
    assert set(this.children(recursive=True)) <= processes
    assert _sockets(this) <= before


def _sockets(process):
    return {(one.fd, one.laddr) for one in process.net_connections()}


@pytest.fixture
def proxied(suite, pytester):
    """Runs a suite whose conftest.py puts a proxy in front of an application, both as expressions."""

    def run(source, app, proxy="Proxy()", *options, **files):
        head = "import sys, pytest\nfrom pytest_isolation import Proxy\n" + "".join(
            f"import {name}\n" for name in files
        )
        pytester.makeconftest(
            f"{head}@pytest.fixture\ndef isolation_app(): return {app}\n"
            f"@pytest.fixture\ndef isolation_proxy(): return {proxy}\n"
        )
        return suite(source, *options, **files)

    return run


def test_what_stays_with_a_connection_reaches_the_next_user_of_it(proxied):
    """As the state of uvicorn 0.21.0 did; nobody sees it who has a connection of its own."""
    result = proxied(SCENARIO, "shop.leaky", shop=REMEMBERING)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  solo-0* received the secret 'id' of solo-00", "  channel   GET /me, at $.body"])
    proxied(SCENARIO, "shop.leaky", "None", shop=REMEMBERING).assert_outcomes(passed=1)


def test_its_correct_twin_passes_over_as_many_connections_as_were_asked_for(proxied):
    """However many users there are."""
    counting = SCENARIO + "    def test_connections(): import shop; assert len(shop.connections) == 3\n"
    proxied(counting, "shop.sound", "Proxy(connections=3)", shop=REMEMBERING).assert_outcomes(passed=2)


@pytest.mark.parametrize(("how", "outcome"), [("leaky", {"failed": 1}), ("sound", {"passed": 1})])
def test_answers_in_another_order_than_requests_are_found(proxied, pytester, how, outcome):
    """Only a proxy that does not wait for answers meets them."""
    server = pytester.makepyfile(server=PIPELINED)
    command = [sys.executable, str(server), "{port}", how]
    proxied(SCENARIO, command, "Proxy(connections=1, pipeline=True)").assert_outcomes(**outcome)


@pytest.mark.parametrize(
    ("app", "outcome"),
    [("for a minute", "failed"), ("not forbidden", "failed"), ("varies", "passed"), ("private", "passed")],
)
def test_a_shared_cache_keeps_what_it_may(proxied, app, outcome):
    """And hands it to whoever asks next, if nothing says that answers differ by user."""
    result = proxied(SCENARIO, f"shop.apps[{app!r}]", "Proxy(cache=True)", shop=CACHED)
    result.assert_outcomes(**{outcome: 1})
    if outcome == "failed":
        result.stdout.fnmatch_lines(["LEAK  solo-01 received the secret 'id' of solo-00"])


def test_bodies_streams_and_errors_pass_through(proxied):
    """In both directions, and what happens at one user's connection does not matter to another's."""
    result = proxied(
        """
        import pytest
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4)
        async def test_it(user):
            sent = user.id + "x" * 200_000
            assert (await user.http.post("/echo", content=sent)).text == sent
            async with user.http.stream("GET", f"/count?to={user.index}") as answer:
                assert [chunk async for chunk in answer.aiter_text()] == [str(n) for n in range(user.index)]
            assert (await user.http.get("/nowhere")).status_code == 404
            assert (await user.http.head("/count?to=3")).content == b""
        """,
        "shop.app",
        "Proxy(connections=2, pipeline=True)",
        "--isolation-max-seconds=0.5",
        shop="""
        import asyncio
        from starlette.applications import Starlette
        from starlette.responses import Response, StreamingResponse
        from starlette.routing import Route
        async def echo(request):
            return Response(await request.body())
        async def count(request):
            async def numbers():
                for number in range(int(request.query_params["to"])):
                    yield str(number)
                    await asyncio.sleep(0.01)
            return StreamingResponse(numbers())
        app = Starlette(routes=[Route("/echo", echo, methods=["POST"]), Route("/count", count)])
        """,
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("app", "proxy", "said"),
    [
        ("print", "2", "*isolation_proxy is 2, which is no Proxy. Return pytest_isolation.Proxy(connections=2)"),
        ("print", "Proxy(connections=0)", "*Proxy(connections=0): a whole number from 1 on is wanted"),
        ("print", "Proxy(cache='yes')", "*Proxy(cache='yes'): True or False is wanted"),
        ("'https://localhost:1'", "Proxy()", "*isolation_proxy reaches an application over http:// only*"),
    ],
)
def test_a_proxy_that_cannot_be_is_refused(proxied, app, proxy, said):
    """Before anybody plays."""
    result = proxied(SCENARIO, app, proxy)
    assert result.ret == 1
    result.stdout.fnmatch_lines([said])


def test_a_proxy_without_an_application_is_refused(suite, pytester):
    """Also where the scenario does not ask for a client at all."""
    pytester.makeconftest(
        "import pytest\nfrom pytest_isolation import Proxy\n@pytest.fixture\ndef isolation_proxy(): return Proxy()"
    )
    result = suite("import pytest\n@pytest.mark.isolation(users=2)\ndef test_it(user): user.observe(user.id)")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*isolation_proxy has nothing behind it: no application was named. Override*"])


def test_an_application_that_does_not_answer_is_said(proxied):
    """In the words of who stands between."""
    result = proxied(SCENARIO, "'http://127.0.0.1:9'")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*the application did not answer the proxy of pytest-isolation: ConnectionRefusedError*"]
    )


def test_streams_that_are_left_and_errors_are_no_fault(proxied, monkeypatch):
    """A stream without an end whose reader goes away, and an endpoint that raises, after which uvicorn closes."""
    monkeypatch.setattr(asgi, "_LAST_REQUESTS_S", 0.1)
    result = proxied(
        """
        import pytest
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=5, cancel=False)
        async def test_it(user):
            async with user.http.stream("GET", "/events", headers={"x-user": user.id}) as answer:
                async for line in answer.aiter_lines():
                    break
            assert (await user.http.get("/boom")).status_code == 500
        """,
        "shop.app",
        shop="""
        import asyncio
        from starlette.applications import Starlette
        from starlette.responses import StreamingResponse
        from starlette.routing import Route
        async def events(request):
            async def hello():
                yield f"data: {request.headers['x-user']}\\n\\n"
                while True:
                    await asyncio.sleep(0.05)
                    yield ": still there\\n\\n"
            return StreamingResponse(hello(), media_type="text/event-stream")
        async def boom(request):
            raise RuntimeError
        app = Starlette(routes=[Route("/events", events), Route("/boom", boom)])
        """,
    )
    result.assert_outcomes(passed=1)
