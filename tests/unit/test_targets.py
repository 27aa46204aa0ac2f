"""What users reach over sockets: how it is served, and what they observe of it."""

import asyncio
import contextlib
import functools
import gzip
import http.client
import json
import socket
import threading

import pytest

from pytest_isolation.errors import IsolationWarning
from pytest_isolation.targets import wsgi as wsgi_module
from pytest_isolation.targets.http import AsyncClient, Client, channel_of
from pytest_isolation.targets.loopback import is_local, listening_socket
from pytest_isolation.targets.marks import Reach
from pytest_isolation.targets.serving import Kind, kind_of
from pytest_isolation.targets.wsgi import WsgiServer
from pytest_isolation.users.cast import Cast, run_of
from pytest_isolation.users.snapshot import Bag


@pytest.fixture
def user():
    [user] = Cast(1, "test").users(1)
    return user


@pytest.fixture
def served():
    """Serves a WSGI application; hands back the server."""
    with contextlib.ExitStack() as stack:

        def serve(app, **options):
            server = WsgiServer(app, **options)
            stack.callback(server.close)
            return server

        yield serve


def answer(*parts, status="200 OK", headers=()):
    def app(environ, start_response):
        start_response(status, list(headers))
        return list(parts)

    return app


def observed(user):
    return [(one.channel, one.value) for one in run_of(user).observations]


# What is observed


def test_an_answer_is_observed_by_itself(served, user):
    """Its status, its body, and the headers that say something."""
    app = answer(b'{"note": 1}', headers=[("Content-Type", "application/json"), ("Date", "now"), ("X-Own", "yes")])
    with Client(user, Reach(served(app).url)) as client:
        client.get("/notes?of=me")
    headers = {"content-type": "application/json", "x-own": "yes"}
    assert observed(user) == [("GET /notes", {"status": 200, "headers": headers, "body": {"note": 1}})]


def test_every_cookie_is_observed_and_kept(served, user):
    """The user's own jar sends them back."""

    def app(environ, start_response):
        start_response("200 OK", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        return [environ.get("HTTP_COOKIE", "none").encode()]

    with Client(user, Reach(served(app).url)) as client:
        assert [client.get("/").text, client.get("/").text] == ["none", "a=1; b=2"]
    _, first = observed(user)[0]
    assert first["headers"] == {"set-cookie": Bag(["a=1", "b=2"])}


BODIES = {
    "JSON": (b'{"a": [1]}', {"a": [1]}),
    "JSON with a key that stands twice": (b'{"a": 1, "a": 2}', {"a": 1, "a'": 2}),
    "text": ("schön".encode(), "schön"),
    "bytes": (b"\xff\x00\xfe", b"\xff\x00\xfe"),
    "nothing": (b"", ""),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_body_is_json_else_text_else_bytes(served, user, body):
    """Whatever its headers say."""
    raw, expected = BODIES[body]
    with Client(user, Reach(served(answer(raw)).url)) as client:
        client.get("/")
    [(_, seen)] = observed(user)
    assert seen["body"] == expected


def test_the_charset_of_a_text_is_heeded(served, user):
    """A text in Latin-1."""
    app = answer("schön".encode("latin-1"), headers=[("Content-Type", "text/plain; charset=latin-1")])
    with Client(user, Reach(served(app).url)) as client:
        client.get("/")
    assert observed(user)[0][1]["body"] == "schön"


def test_redirects_are_observed_too(served, user):
    """Somebody else's name may stand in their headers."""

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/old":
            start_response("303 See Other", [("Location", "/new")])
            return [b""]
        start_response("200 OK", [])
        return [b"here"]

    with Client(user, Reach(served(app).url)) as client:
        client.get("/old", follow_redirects=True)
    assert [(channel, seen["status"]) for channel, seen in observed(user)] == [("GET /old", 303), ("GET /new", 200)]
    assert observed(user)[0][1]["headers"]["location"] == "/new"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
def test_a_stream_is_observed_when_it_ends(served, user, packed):
    """Unpacked."""
    parts, headers = [b"one, ", b"two"], []
    if packed:
        parts, headers = [gzip.compress(b"one, two")], [("Content-Encoding", "gzip")]
    with (
        Client(user, Reach(served(answer(*parts, headers=headers)).url)) as client,
        client.stream("GET", "/events") as stream,
    ):
        assert b"".join(stream.iter_bytes()) == b"one, two"
    [(_, seen)] = observed(user)
    assert seen["body"] == "one, two"


def test_a_stream_that_is_left_is_observed_as_far_as_it_was_read(served, user):
    """A user who has seen half of an answer has seen it."""

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"one"
        yield b"two" * 100_000

    with Client(user, Reach(served(app).url)) as client, client.stream("GET", "/events") as stream:
        next(stream.iter_raw(3))
    [(_, seen)] = observed(user)
    assert seen["body"].startswith("one")


@pytest.mark.anyio
async def test_a_stream_in_async_code_is_observed_too(served, user):
    """Also one that is cut in the middle of its compression."""
    parts, headers = [gzip.compress(b"one, two"), b""], [("Content-Encoding", "gzip")]
    async with AsyncClient(user, Reach(served(answer(*parts, headers=headers)).url)) as client:
        async with client.stream("GET", "/whole") as stream:
            assert await stream.aread() == b"one, two"
        async with client.stream("GET", "/cut") as stream, contextlib.aclosing(stream.aiter_raw(5)) as chunks:
            await anext(chunks)
    (first, whole), (second, _) = observed(user)
    assert (first, whole["body"], second) == ("GET /whole", "one, two", "GET /cut")


def test_a_stream_that_cannot_be_unpacked_is_observed_as_it_came(served, user):
    """A server that says gzip and sends something else."""
    app = answer(b"not packed", headers=[("Content-Encoding", "gzip")])
    with Client(user, Reach(served(app).url)) as client, client.stream("GET", "/") as stream:
        b"".join(stream.iter_raw())
    [(_, seen)] = observed(user)
    assert seen["body"] == "not packed"


CHANNELS = {
    "/notes": "GET /notes",
    "/v1/notes": "GET /v1/notes",
    "/oauth2/token": "GET /oauth2/token",
    "/orders/17": "GET /orders/{}",
    "/orders/17/lines/3": "GET /orders/{}/lines/{}",
    "/orders/0b8f2f6e-54a8-4d3c-9b7e-2f9d1c6b7a10": "GET /orders/{}",
    "/s/averylongtokenwithoutanydigitsinit": "GET /s/{}",
}


@pytest.mark.parametrize("path", CHANNELS)
def test_answers_of_one_kind_have_one_channel(user, path):
    """Else the story of one user could not be told of another."""
    assert channel_of(user, "GET", path) == CHANNELS[path]


def test_a_canary_in_a_path_is_called_by_its_name(user):
    """Whoever's it is."""
    path = f"/users/{user.id}/notes/{user.secret('note')}/{user.number('amount')}"
    assert channel_of(user, "GET", path) == "GET /users/{id}/notes/{note}/{amount}"


# How it is served


async def asgi(scope, receive, send): ...
def wsgi(environ, start_response): ...
def anything(*args): ...
async def anything_async(*args): ...
def old_asgi(scope): ...
def factory(debug=False): ...


class Framework:
    async def __call__(self, scope, receive, send): ...


class OldFramework:
    def __call__(self, environ, start_response): ...


KINDS = {
    "an async function": (asgi, Kind.ASGI),
    "an object": (Framework(), Kind.ASGI),
    "a method": (Framework().__call__, Kind.ASGI),
    "an async function of anything": (anything_async, Kind.ASGI),
    "a part of an async function": (functools.partial(asgi), Kind.ASGI),
    "a function of three": ((lambda scope, receive, send: asgi(scope, receive, send)), Kind.ASGI),
    "a function of two": (wsgi, Kind.WSGI),
    "an object called with two": (OldFramework(), Kind.WSGI),
    "a function of none": ((lambda: asgi), Kind.FACTORY),
    "a function of none with a default": (factory, Kind.FACTORY),
    "a function of anything": (anything, Kind.UNCLEAR),
    "an application of ASGI 2": (old_asgi, Kind.UNCLEAR),
    "a class": (Framework, Kind.UNCLEAR),
    "a built-in that has no signature": (max, Kind.UNCLEAR),
    "a number": (3, Kind.UNCLEAR),
}


@pytest.mark.parametrize("app", KINDS)
def test_the_signature_says_what_an_application_is(app):
    """Three arguments and awaited, or two and not; where it says nothing, nothing is guessed."""
    candidate, kind = KINDS[app]
    assert kind_of(candidate) is kind


LOCAL = (
    "http://127.0.0.1:8000",
    "http://127.9.9.9",
    "http://localhost:1/x",
    "http://[::1]:8000",
    "https://a.localhost",
)
REMOTE = (
    "http://10.0.0.1",
    "http://example.org",
    "http://localhost.example.org",
    "http://127.0.0.1@example.org",
    "http://",
)


@pytest.mark.parametrize("url", LOCAL + REMOTE)
def test_only_the_loopback_is_this_machine(url):
    """Whatever stands before an @."""
    assert is_local(url) == (url in LOCAL)


def test_a_connection_is_kept_and_a_thread_serves_many(served):
    """As gthread workers do: twenty connections on two threads, in turn."""
    threads = set()

    def app(environ, start_response):
        threads.add(threading.get_ident())
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    port = int(served(app, workers=2).url.rpartition(":")[2])
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=10) for _ in range(20)]
    for _ in range(2):
        for number, connection in enumerate(connections):
            connection.request("POST", "/", str(number))
            assert connection.getresponse().read() == str(number).encode()
            assert connection.sock is not None
    for connection in connections:
        connection.close()
    assert len(threads) == 2


CLOSED = {
    "an answer of unknown length": ("GET", answer(b"one", b"two"), 200, b"onetwo"),
    "HEAD": ("HEAD", answer(b"one"), 200, b""),
    "an error in the application": ("GET", lambda environ, start_response: 1 / 0, 500, b"A server error occurred."),
}


@pytest.mark.parametrize("case", CLOSED)
def test_a_connection_is_closed_where_the_end_of_an_answer_cannot_be_told(served, case):
    """And says so."""
    method, app, status, body = CLOSED[case]
    connection = http.client.HTTPConnection("127.0.0.1", int(served(app).url.rpartition(":")[2]), timeout=10)
    connection.request(method, "/")
    response = connection.getresponse()
    assert (response.status, response.getheader("connection")) == (status, "close")
    assert response.read().startswith(body)
    connection.close()


def test_requests_in_one_packet_are_answered_in_order(served):
    """A proxy may send them so."""
    app = functools.partial(
        lambda environ, start_response: answer(environ["PATH_INFO"].encode())(environ, start_response)
    )
    port = int(served(app).url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        last = b"GET /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        plain.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n" + last)
        received = b"".join(iter(lambda: plain.recv(4096), b""))
    assert [received.count(body) for body in (b"\r\n\r\n/a", b"\r\n\r\n/b", b"\r\n\r\n/c")] == [1, 1, 1]


def test_a_request_without_a_length_gets_one(served):
    """WSGI knows no other."""

    def app(environ, start_response):
        start_response("200 OK", [])
        return [environ["CONTENT_LENGTH"].encode(), b" ", environ["wsgi.input"].read()]

    connection = http.client.HTTPConnection("127.0.0.1", int(served(app).url.rpartition(":")[2]), timeout=10)
    chunked = {"Transfer-Encoding": "chunked"}
    connection.request("POST", "/", iter([b"one", b"two"]), encode_chunked=True, headers=chunked)
    assert connection.getresponse().read() == b"6 onetwo"
    connection.close()


def test_an_application_that_does_not_end_is_warned_of(served, monkeypatch):
    """A request that nobody can interrupt; its thread ends with the process."""
    monkeypatch.setattr(wsgi_module, "_CLOSING_S", 0.1)
    entered, go_on = threading.Event(), threading.Event()

    def app(environ, start_response):
        entered.set()
        go_on.wait(10)
        start_response("200 OK", [])
        return [b""]

    server = WsgiServer(app)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert entered.wait(10)
        with pytest.warns(IsolationWarning, match="a request is still being answered"):
            server.close()
        go_on.set()


def test_closing_ends_the_threads_and_the_connections(served):
    """Also those on which half a request has come."""
    before = set(threading.enumerate())
    server = WsgiServer(answer(b""))
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10) as half:
        half.sendall(b"GET / HTT")
        server.close()
        with contextlib.suppress(ConnectionError):
            assert half.recv(100) == b""
    assert set(threading.enumerate()) <= before


def test_the_environment_is_that_of_wsgi(served):
    """Protocol, scheme and query among it."""

    def app(environ, start_response):
        start_response("200 OK", [])
        return [json.dumps([environ["SERVER_PROTOCOL"], environ["wsgi.url_scheme"], environ["QUERY_STRING"]]).encode()]

    connection = http.client.HTTPConnection("127.0.0.1", int(served(app).url.rpartition(":")[2]), timeout=10)
    connection.request("GET", "/?a=1")
    assert json.load(connection.getresponse()) == ["HTTP/1.1", "http", "a=1"]
    connection.close()


def test_what_is_served_does_not_wait_for_an_acknowledgement():
    """Nagle's algorithm is off in its connections; with it an answer in two parts waits for 40 ms."""

    async def nodelay():
        accepted = asyncio.get_running_loop().create_future()
        listening = listening_socket()
        server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listening)
        _, client = await asyncio.open_connection(*listening.getsockname())
        served = await accepted
        found = served.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for writer in (client, served):
            writer.close()
            await writer.wait_closed()
        server.close()
        return found

    assert asyncio.run(nodelay())
