"""The application as a process: real sockets, real clients, its own metrics."""

import asyncio
import json
import signal

import pytest
from e2e.conftest import bearer, events, token
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

pytestmark = pytest.mark.asyncio


async def scrape(client):
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


@pytest.mark.parametrize("preset", ["balanced", "maximum"])
async def test_a_hundred_clients_receive_their_own_events_and_the_metrics_say_so(serve, sockets, preset):
    """Each over a socket of its own, all at once."""
    app, users = serve(preset=preset), [f"user-{n}" for n in range(100)]
    async with app.client() as client, sockets(*map(app.socket, users)) as opened:
        answers = await asyncio.gather(*(app.chat(client, user, f"the secret of {user}") for user in users))
        assert [answer.json()["answer"] for answer in answers] == [
            f"{user} has said: the secret of {user}" for user in users
        ]
        for user, received in zip(users, await asyncio.gather(*(events(s, 5) for s in opened)), strict=True):
            assert [event["sequence"] for event in received] == [1, 2, 3, 4, 5]
            assert received[-1]["answer"] == f"{user} has said: the secret of {user}"
        samples = await scrape(client)
    name = "isolation_api_request_seconds"
    assert samples[f"{name}_count", ("endpoint", "/chat")] == 100
    assert samples[name, ("endpoint", "/chat"), ("quantile", "0.95")] > 0
    assert samples["isolation_api_request_duration_seconds_bucket", ("endpoint", "/chat"), ("le", "+Inf")] == 100
    assert samples["isolation_sockets_open",] == 100
    assert samples["isolation_emitters_in_use",] == 0
    assert samples["isolation_database_active",] == 0


async def test_a_user_with_two_sockets_receives_on_both_and_nobody_else_on_any(serve, sockets):
    """Two tabs of alice, one of bob."""
    app = serve()
    async with app.client() as client, sockets(*map(app.socket, ("alice", "alice", "bob"))) as (one, two, bob):
        await app.chat(client, "alice", "hi")
        assert await events(one, 5) == await events(two, 5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await bob.recv()


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer x"}, {"authorization": "Basic eDp4"}, {"authorization": f"Bearer {token('a')}x"}],
)
async def test_without_a_token_there_is_nothing(serve, headers):
    """Not over HTTP, and not over a socket."""
    app = serve()
    async with app.client() as client:
        for response in (
            await client.post("/chat", json={"message": "hi"}, headers=headers),
            await client.get("/messages", headers=headers),
        ):
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{app.port}/ws", additional_headers=headers)
    assert refused.value.response.status_code == 403


async def test_a_browser_offers_its_token_as_a_protocol(serve):
    """It cannot set a header for a socket."""
    app = serve()
    protocol = f"isolation.token.{token('alice')}"
    async with connect(f"ws://127.0.0.1:{app.port}/ws", subprotocols=[protocol]) as socket, app.client() as client:
        assert socket.subprotocol == protocol
        await app.chat(client, "alice", "hi")
        assert len(await events(socket, 5)) == 5


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[1]", 422),
        (b'{"message": 3}', 422),
        (b'{"message": "hi", "thread": ""}', 422),
        (b'{"message": "hi", "agent": "nobody"}', 404),
        (b'{"message": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_a_reason(serve, body, status):
    """In JSON, and personal."""
    app = serve()
    async with app.client() as client:
        response = await client.post("/chat", content=body, headers=bearer("alice"))
    assert response.status_code == status
    assert response.json()["error"]
    assert response.headers["cache-control"] == "private, no-store"


async def test_personal_answers_stay_out_of_every_cache_and_files_may_be_kept(serve):
    """An edge cache that keeps somebody's messages hands them to the next."""
    app = serve()
    async with app.client() as client:
        personal = await client.get("/messages", headers=bearer("alice"))
        file = await client.get("/static/index.html")
        missing = await client.get("/static/nothing.html")
    assert personal.headers["cache-control"] == "private, no-store"
    assert personal.headers["vary"] == "Authorization, Cookie"
    assert file.headers["cache-control"].startswith("public, max-age=300, s-maxage=")
    assert "etag" in file.headers
    assert missing.status_code == 404
    assert "public" not in missing.headers["cache-control"]


async def test_a_socket_that_is_never_read_harms_nobody_else(serve, sockets):
    """Another tab of the same user, and everybody else, receive everything."""
    app = serve(inbox_limit="50")
    headers = bearer("alice")["authorization"]
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=1024)
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: {headers}\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
    )
    assert b"101" in await reader.readline()
    writer.transport.pause_reading()
    async with app.client() as client, sockets(app.socket("alice"), app.socket("bob")) as (tab, bob):
        for turn in range(40):
            big = f"{turn} " + "x" * 30_000
            await app.chat(client, "alice", big, thread="a") if turn < 5 else await app.chat(client, "bob", "hi")
        assert len(await events(tab, 25)) == 25
        assert len(await events(bob, 175)) == 175
    writer.close()


async def test_health_says_what_is_known(serve):
    """And nothing that was not measured is healthy."""
    app = serve()
    async with app.client() as client:
        health = await client.get("/healthz")
    assert health.status_code == 200
    assert health.json() == {"status": "serving", "health": None, "missed": [], "broker": True}


async def test_it_ends_gently(serve):
    """What is under way is answered, sockets send what they have and are told why they are closed."""
    app = serve()
    async with app.client() as client, app.socket("alice") as socket:
        asking = [asyncio.create_task(app.chat(client, "alice", f"message {n}")) for n in range(20)]
        await asyncio.sleep(0.05)
        app.signal(signal.SIGTERM)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        answered = [a for a in answers if not isinstance(a, Exception) and a.status_code == 200]
        received, closed = [], None
        try:
            async with asyncio.timeout(20):
                while True:
                    received.append(json.loads(await socket.recv()))
        except ConnectionClosed as end:
            closed = end
    assert answered
    assert closed.rcvd.code in (1001, 1012)
    # A socket may be closed before the last request is answered; what it got until then has no gap.
    counts = [sum(event["sequence"] == number for event in received) for number in range(1, 6)]
    assert counts[0]
    assert counts == sorted(counts, reverse=True)
    code, said = await asyncio.to_thread(app.wait)
    assert (code, "Traceback" in said) == (-signal.SIGTERM, False), said


async def test_ctrl_c_ends_it_without_a_traceback(serve):
    """As everybody stops a server at a terminal."""
    app = serve()
    app.signal(signal.SIGINT)
    code, said = await asyncio.to_thread(app.wait)
    assert (code, "Traceback" in said) == (0, False), said


async def test_bad_settings_are_told_at_the_start(serve):
    """With the right form, and without a traceback."""
    with pytest.raises(AssertionError, match="REFERENCE_EMITTERS_LIMIT='many': it takes a whole number"):
        serve(emitters_limit="many")
