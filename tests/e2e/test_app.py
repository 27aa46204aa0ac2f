"""The application as a process: real sockets, real clients, its own metrics."""

import asyncio
import json
import re
import signal
import socket
from contextlib import asynccontextmanager

import pytest
from e2e.conftest import OWN_AGENTS, bearer, events, token
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


@pytest.mark.parametrize("preset", ["balanced", pytest.param("maximum", marks=pytest.mark.soak)])
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


async def test_a_user_with_two_sockets_receives_on_both_and_nobody_else_on_any(app, sockets):
    """Two tabs of carol, one of dave."""
    async with app.client() as client, sockets(*map(app.socket, ("carol", "carol", "dave"))) as (one, two, dave):
        await app.chat(client, "carol", "hi")
        assert await events(one, 5) == await events(two, 5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await dave.recv()


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer x"}, {"authorization": "Basic eDp4"}, {"authorization": f"Bearer {token('a')}x"}],
)
async def test_without_a_token_there_is_nothing(app, headers):
    """Not over HTTP, and not over a socket."""
    async with app.client() as client:
        for response in (
            await client.post("/chat", json={"message": "hi"}, headers=headers),
            await client.get("/messages", headers=headers),
        ):
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{app.port}/ws", additional_headers=headers)
    assert refused.value.response.status_code == 403


async def test_a_browser_offers_its_token_as_a_protocol(app):
    """It cannot set a header for a socket."""
    protocol = f"isolation.token.{token('erin')}"
    async with connect(f"ws://127.0.0.1:{app.port}/ws", subprotocols=[protocol]) as socket, app.client() as client:
        assert socket.subprotocol == protocol
        await app.chat(client, "erin", "hi")
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
async def test_what_cannot_be_answered_is_refused_with_a_reason(app, body, status):
    """In JSON, and personal."""
    async with app.client() as client:
        response = await client.post("/chat", content=body, headers=bearer("alice"))
    assert response.status_code == status
    assert response.json()["error"]
    assert response.headers["cache-control"] == "private, no-store"


async def test_personal_answers_stay_out_of_every_cache_and_files_may_be_kept(app):
    """An edge cache that keeps somebody's messages hands them to the next."""
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


@asynccontextmanager
async def deaf(app, user):
    """A socket that is opened, and never read."""
    headers = bearer(user)["authorization"]
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=1024)
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: {headers}\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
    )
    assert b"101" in await reader.readline()
    writer.transport.pause_reading()
    try:
        yield
    finally:
        writer.transport.abort()


async def test_a_socket_that_is_never_read_harms_nobody_else(serve, sockets):
    """Another tab of the same user, and everybody else, receive everything."""
    app = serve(inbox_limit="50")
    both = sockets(app.socket("alice"), app.socket("bob"))
    async with deaf(app, "alice"), app.client() as client, both as (tab, bob):
        for turn in range(40):
            big = f"{turn} " + "x" * 30_000
            await app.chat(client, "alice", big, thread="a") if turn < 5 else await app.chat(client, "bob", "hi")
        assert len(await events(tab, 25)) == 25
        assert len(await events(bob, 175)) == 175


async def test_a_socket_that_is_never_read_is_closed(serve):
    """What it holds is given back, though there is nobody who would say goodbye, and the end need not wait for it."""
    app = serve(socket_timeout_s="0.2")
    async with deaf(app, "alice"), app.client() as client:
        for _ in range(12):  # each answer is longer than the one before; more than the kernel keeps
            assert (await app.chat(client, "alice", "x" * 60_000)).status_code == 200
        async with asyncio.timeout(20):
            while (await scrape(client))["isolation_sockets_open",]:
                await asyncio.sleep(0.05)
        app.signal(signal.SIGTERM)
        code, said = await asyncio.to_thread(app.wait)
    assert (code, "Traceback" in said, "timeout graceful" in said) == (-signal.SIGTERM, False, False), said


async def test_health_says_what_is_known(serve):
    """And nothing that was not measured is healthy."""
    app = serve()
    async with app.client() as client:
        health = await client.get("/healthz")
    assert health.status_code == 200
    assert health.json() == {"status": "serving", "health": None, "missed": [], "alerts": [], "broker": True}


async def test_every_name_of_the_specification_is_there_for_prometheus(serve):
    """Each stage with its quantile and its histogram, and what the first request paid."""
    app = serve(sample_rate="1")
    async with app.client() as client, app.socket("alice"):
        await asyncio.gather(*(app.chat(client, f"user-{n}", "hi") for n in range(25)))
        samples = await scrape(client)
    stages = ("factory_context_creation", "factory_agent_creation", "factory_context_cleanup", "event_dispatch")
    for name in (*stages, "authenticate", "database_session", "database_query"):
        assert samples[f"isolation_{name}_seconds", ("quantile", "0.95")] > 0
        count = samples[f"isolation_{name}_seconds_count",]
        assert count >= 25
        assert samples[f"isolation_{name}_duration_seconds_bucket", ("le", "+Inf")] == count
        assert samples[f"isolation_{name}_errors_total",] == 0
    assert samples["isolation_socket_open_seconds_count",] == 1
    assert samples["isolation_api_request_seconds", ("endpoint", "/chat"), ("quantile", "0.95")] > 0
    assert samples["isolation_database_connect_seconds",] > 0


async def test_an_operation_that_takes_far_too_long_is_told(serve):
    """In the log, for Prometheus, and by its health; of a request no more than its name."""
    app = serve(("-c", OWN_AGENTS))
    async with app.client() as client:
        await app.chat(client, "alice", "x", agent="slow")
        [alert] = [one for one in (await client.get("/healthz")).json()["alerts"] if one["name"] == "api.request"]
        assert (alert["target_s"], alert["seconds"] > 0.5) == (0.02, True)
        assert (await scrape(client))["isolation_alerts_total", ("operation", "api.request")] == 1
        app.signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(app.wait)
    assert re.search(r"api\.request took [\d.]+ s; its target is 0\.02 s", said)


async def test_spans_need_no_more_than_a_setting(serve):
    """And go to whatever provider the process has."""
    app = serve(trace_operations="on")
    async with app.client() as client:
        assert (await app.chat(client, "alice", "hi")).status_code == 200
        assert (await scrape(client))["isolation_agent_run_seconds_count", ("agent", "ChatAgent")] == 1


async def test_it_ends_gently(serve, sockets):
    """Every request that is under way is answered, and all its events arrive before the sockets are closed."""
    app, users = serve(("-c", OWN_AGENTS)), [f"user-{n}" for n in range(5)]
    async with app.client() as client, sockets(*map(app.socket, users)) as opened:
        asking = [
            asyncio.create_task(app.chat(client, user, f"{n}", agent="slow", thread=f"t{n}"))
            for n in range(3)
            for user in users
        ]
        received = [await events(socket, 3) for socket in opened]  # so that each of the requests is under way
        app.signal(signal.SIGTERM)
        answers = await asyncio.gather(*asking)
        assert [answer.status_code for answer in answers] == [200] * 15
        for found, socket in zip(received, opened, strict=True):
            async with asyncio.timeout(20):
                with pytest.raises(ConnectionClosed) as closed:
                    while True:
                        found.append(json.loads(await socket.recv()))
            assert closed.value.rcvd.code in (1001, 1012)
            for n in range(3):
                assert [e["sequence"] for e in found if e["about"] == f"{n}"] == [1, 2, 3, 4, 5]
    code, said = await asyncio.to_thread(app.wait)
    assert (code, "Traceback" in said) == (-signal.SIGTERM, False), said


async def test_what_is_waiting_for_its_conversation_is_answered_too(serve):
    """It was let in before the end began."""
    app = serve(("-c", OWN_AGENTS))
    async with app.client() as client, app.socket("alice") as socket:
        asking = [asyncio.create_task(app.chat(client, "alice", "x", agent="slow", thread="t")) for _ in range(3)]
        await events(socket, 1)
        await asyncio.sleep(0.1)  # for the others to arrive
        app.signal(signal.SIGTERM)
        assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 3
        assert len(await events(socket, 14)) == 14


async def test_an_event_that_cannot_be_sent_is_named_and_the_next_ones_arrive(own):
    """It costs its user neither the socket nor anything else."""
    async with own.client() as client, own.socket("alice") as socket:
        await own.chat(client, "alice", "x", agent="dear")
        first, dropped, last = await events(socket, 3)
        assert (first["sequence"], last["sequence"]) == (1, 3)
        assert (dropped["kind"], dropped["kinds"], dropped["from"]) == ("dropped", {"tool_completed": 1}, 2)
        assert "JSON" in dropped["reason"]
        assert (await scrape(client))["isolation_events_unwritable_total",] == 1  # nobody else sends such a thing


async def test_a_mistake_of_ours_is_personal_too_and_says_nothing(serve):
    """Nor does a pool that is exhausted look like one."""
    app = serve(("-c", OWN_AGENTS), emitters_ready="1", emitters_limit="1", emitter_timeout_s="0.05")
    async with app.client() as client:
        broken = await app.chat(client, "alice", "a secret", agent="broken")
        asking = asyncio.create_task(app.chat(client, "bob", "x", agent="slow"))
        await asyncio.sleep(0.2)
        exhausted = await client.get("/messages", headers=bearer("alice"))
        await asking
    assert (broken.status_code, "secret" in broken.text) == (500, False)
    assert (exhausted.status_code, exhausted.headers["retry-after"]) == (503, "1")
    for response in (broken, exhausted):
        assert response.headers["cache-control"] == "private, no-store"
        assert response.headers["vary"] == "Authorization, Cookie"


async def test_the_naive_backend_can_be_served_too(serve):
    """To be put under load in the same way."""
    app = serve(("-m", "reference_impl", "--port", "0", "--naive"))
    async with app.client() as client, app.socket("alice") as socket:
        assert (await app.chat(client, "alice", "hi")).json()["answer"] == "alice has said: hi"
        assert len(await events(socket, 5)) == 5
        assert (await client.get("/messages", headers=bearer("alice"))).json() == {"messages": ["hi"]}
        assert (await scrape(client))["isolation_sockets_open",] == 1
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "reference_impl"),
        ("-c", "import sys; from pytest_isolation.cli import main; main(sys.argv[1:])", "serve"),
    ],
    ids=["python -m reference_impl", "isolation serve"],
)
async def test_without_a_port_it_is_8000(serve, command):
    """As the documentation has it: ``curl localhost:8000/metrics``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8000))
        except OSError:
            pytest.skip("somebody else has the port 8000")
    app = serve(command)
    assert app.port == 8000
    async with app.client() as client:
        assert "isolation_start_seconds" in (await client.get("/metrics")).text


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
