"""Several replicas are one: an event arrives at its user, wherever it listens, once and in order."""

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack

import psutil
import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st

from reference_impl import broker as module
from reference_impl.broker import LocalBroker, RemoteBroker, make_broker
from reference_impl.broker_postgres import PostgresLink
from reference_impl.connections import Connections

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["valkey", "postgres"])
def url(request):
    """Valkey, and PostgreSQL."""
    return request.getfixturevalue(f"{request.param}_url")


class Replica:
    """The part of a backend that delivers."""

    def __init__(self, url):
        self.connections, self.broker = Connections(), make_broker(url)

    async def __aenter__(self):
        await self.broker.start(self.connections.dispatch)
        return self

    async def __aexit__(self, *_):
        await self.broker.aclose()


async def until(condition, seconds=10):
    """Wait for what happens elsewhere."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def read(inbox):
    """What is there."""
    return [inbox._events.popleft() for _ in range(inbox.pending())]


async def test_an_event_arrives_wherever_its_user_listens_once_and_in_order(url):
    """Fifty users, two replicas, every user on one of them or on both."""
    async with Replica(url) as one, Replica(url) as two, AsyncExitStack() as stack:
        inboxes = {}
        for n in range(50):
            replicas = ((one,), (two,), (one, two))[n % 3]
            inboxes[f"user-{n}"] = [
                await stack.enter_async_context(replica.connections.connect(f"user-{n}")) for replica in replicas
            ]
        for turn in range(4):
            for n, user in enumerate(inboxes):
                (one, two)[(n + turn) % 2].broker.dispatch(user, {"to": user, "turn": turn})
            await until(lambda turn=turn: all(i.pending() == turn + 1 for several in inboxes.values() for i in several))
        for user, several in inboxes.items():
            for inbox in several:
                assert read(inbox) == [{"to": user, "turn": turn} for turn in range(4)]


async def test_a_burst_arrives_whole_and_in_order(url):
    """A thousand events in one go, many in one message."""
    async with Replica(url) as one, Replica(url) as two, two.connections.connect("alice") as inbox:
        for n in range(1000):
            one.broker.dispatch("alice", {"n": n})
        await until(lambda: inbox.pending() == 1000)
        assert [event["n"] for event in read(inbox)] == list(range(1000))


async def test_a_big_event_arrives_too(url):
    """A notification of PostgreSQL holds eight thousand bytes."""
    text = "täxt " * 20_000
    async with Replica(url) as one, Replica(url) as two, two.connections.connect("alice") as inbox:
        one.broker.dispatch("alice", {"text": text})
        one.broker.dispatch("alice", {"text": "after"})
        await until(lambda: inbox.pending() == 2)
        assert [event["text"] for event in read(inbox)] == [text, "after"]


async def test_a_replica_does_not_hear_itself(url):
    """Its own listeners have had the event already."""
    async with Replica(url) as one, Replica(url) as two, one.connections.connect("alice") as inbox:
        assert one.broker.dispatch("alice", {"n": 1}) == 1
        await until(lambda: two.broker.figures.received == 1)
        two.broker.dispatch("alice", {"n": 2})
        await until(lambda: inbox.pending() == 2)
        assert [event["n"] for event in read(inbox)] == [1, 2]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "nonsense",
        "{}",
        "[1]",
        json.dumps([2, "other", 1, "alice", {}]),
        json.dumps([1, "other", "1", "alice", {}]),
        json.dumps([1, "other", 1, ["alice"], {}]),
        json.dumps([1, "other", 1, "", {}]),
        json.dumps([1, "other", 1, "alice", "text"]),
        json.dumps([1, 7, 1, "alice", {}]),
    ],
)
async def test_what_is_no_message_of_ours_reaches_nobody(message):
    """On any doubt, nobody."""
    delivered = []
    broker = RemoteBroker(lambda: None, ())
    broker._deliver = lambda user, event: delivered.append(user) or 1
    broker._receive(message)
    assert (delivered, broker.figures.ignored) == ([], 1)


async def test_a_message_that_comes_twice_is_delivered_once():
    """It was published again, because nobody knew whether it had been."""
    delivered = []
    broker = RemoteBroker(lambda: None, ())
    broker._deliver = lambda user, event: delivered.append(event["n"]) or 1
    for n in (1, 2, 1, 2, 3):
        broker._receive(json.dumps([1, "other", n, "alice", {"n": n}]))
    assert (delivered, broker.figures.ignored) == ([1, 2, 3], 2)


async def test_the_user_is_what_stands_in_the_message_and_nothing_else(url):
    """Not a part of a name, not a pattern."""
    users = ["a", "a:b", "a*", "*", "a b", "ä", "A", "user-1", "user-11", "isolation.events"]
    async with Replica(url) as one, Replica(url) as two, AsyncExitStack() as stack:
        inboxes = {user: await stack.enter_async_context(two.connections.connect(user)) for user in users}
        for user in users:
            one.broker.dispatch(user, {"to": user})
        await until(lambda: two.broker.figures.received == len(users))
        assert {user: read(inbox) for user, inbox in inboxes.items()} == {user: [{"to": user}] for user in users}


@pytest.mark.parametrize("late_s", [0, 0.3])
async def test_without_its_server_a_replica_delivers_to_its_own_and_catches_up(late_s):
    """It is stopped, and started again on the same port; nothing is published before the others listen again."""
    port = servers.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    async with AsyncExitStack() as stack:
        with servers.valkey(port):
            one, two = [await stack.enter_async_context(Replica(url)) for _ in range(2)]
            here = await stack.enter_async_context(one.connections.connect("alice"))
            there = await stack.enter_async_context(two.connections.connect("alice"))
            await until(lambda: one.broker._peers and two.broker._peers)
        await until(lambda: not one.broker.figures.connected and not two.broker.figures.connected)
        for n in range(3):
            one.broker.dispatch("alice", {"n": n})
        assert read(here) == [{"n": n} for n in range(3)]
        await asyncio.sleep(late_s)  # so that one of them may come back long before the other
        with servers.valkey(port):
            await until(lambda: there.pending() == 3)
            one.broker.dispatch("alice", {"n": 3})
            await until(lambda: there.pending() == 4)
            assert read(there) == [{"n": n} for n in range(4)]
            assert one.broker.figures.failures > 0


class Ether:
    """What links are made for that need no server: who listens to it hears what is published."""

    def __init__(self):
        self.ears, self.is_silent = [], False

    def link(self):
        return EtherLink(self)


class EtherLink:
    """A link over it; if it is silent, what is published gets no answer."""

    def __init__(self, ether):
        self._ether = ether

    async def publish(self, messages):
        if self._ether.is_silent:
            await asyncio.sleep(3600)
        for receive in self._ether.ears:
            for message in messages:
                receive(message)

    async def listen(self, listening, receive):
        self._ether.ears.append(receive)
        listening()
        await asyncio.sleep(3600)

    async def aclose(self):
        pass


async def test_a_server_that_takes_no_answer_is_left_and_what_waited_is_published(monkeypatch):
    """The connection is open, and its other end is gone: no error ever comes."""
    monkeypatch.setattr(module, "_PUBLISHING_S", 0.05)
    ether, heard = Ether(), []
    one, two = RemoteBroker(ether.link, ()), RemoteBroker(ether.link, ())
    await one.start(lambda user, event: 1)
    await two.start(lambda user, event: heard.append(event["n"]) or 1)
    ether.is_silent = True
    for n in range(3):
        one.dispatch("alice", {"n": n})
    await until(lambda: one.figures.failures > 1)
    ether.is_silent = False
    await until(lambda: heard == [0, 1, 2])
    await one.aclose()
    await two.aclose()


async def test_who_does_not_come_back_is_not_waited_for_for_ever(monkeypatch):
    """A replica that was killed."""
    monkeypatch.setattr(module, "_REUNION_S", 0.1)
    monkeypatch.setattr(module, "_PUBLISHING_S", 0.05)
    ether, heard = Ether(), []
    one, two = RemoteBroker(ether.link, ()), RemoteBroker(ether.link, ())
    await one.start(lambda user, event: 1)
    await two.start(lambda user, event: heard.append(event["n"]) or 1)
    one._receive(json.dumps([1, "killed", "here"]))
    ether.is_silent = True
    one.dispatch("alice", {"n": 0})
    await until(lambda: one.figures.failures > 1)
    ether.is_silent = False
    await until(lambda: heard == [0])
    assert "killed" not in one._peers
    await one.aclose()
    await two.aclose()


async def test_a_server_that_is_not_there_at_the_start_delays_nothing(monkeypatch):
    """Only what comes from others is missing."""
    monkeypatch.setattr(module, "_STARTING_S", 0.05)
    async with Replica(f"redis://127.0.0.1:{servers.free_port()}/0") as alone:
        async with alone.connections.connect("alice") as inbox:
            assert alone.broker.dispatch("alice", {"n": 1}) == 1
            assert read(inbox) == [{"n": 1}]
        assert not alone.broker.figures.connected
        monkeypatch.setattr(module, "_FLUSHING_S", 0.05)


async def test_a_silent_server_is_asked_and_one_that_answers_is_kept(url, monkeypatch):
    """Silence is no failure."""
    for link in ("broker_redis", "broker_postgres"):
        monkeypatch.setattr(f"reference_impl.{link}._SILENCE_S", 0.02)
    async with Replica(url) as one, Replica(url) as two, two.connections.connect("alice") as inbox:
        await asyncio.sleep(0.2)
        one.broker.dispatch("alice", {"n": 1})
        await until(lambda: inbox.pending() == 1)
        assert two.broker.figures.failures == 0


async def test_a_server_that_no_longer_answers_is_left(monkeypatch):
    """Its process is stopped: connections stay open, and nothing comes."""
    monkeypatch.setattr("reference_impl.broker_redis._SILENCE_S", 0.05)
    port = servers.free_port()
    with servers.valkey(port):
        async with Replica(f"redis://127.0.0.1:{port}/0") as replica:
            pid = next(p.pid for p in psutil.process_iter(["cmdline"]) if f"127.0.0.1:{port}" in str(p.info["cmdline"]))
            os.kill(pid, signal.SIGSTOP)
            try:
                await until(lambda: replica.broker.figures.failures > 0)
            finally:
                os.kill(pid, signal.SIGCONT)
            await until(lambda: replica.broker.figures.connected)


async def test_a_fault_of_a_link_is_told_and_tried_again(caplog):
    """It does not end what all users share."""

    class Faulty:
        async def publish(self, messages):
            raise AssertionError("a bug")

        async def listen(self, listening, receive):
            listening()
            await asyncio.sleep(60)

        async def aclose(self):
            pass

    broker = RemoteBroker(Faulty, ())
    await broker.start(lambda user, event: 1)
    broker.dispatch("alice", {"n": 1})
    await until(lambda: broker.figures.failures > 1)
    assert "a bug" in caplog.text
    broker._outbox.clear()
    await broker.aclose()


async def test_what_waits_for_the_server_is_bounded_and_the_oldest_goes_first():
    """An outage does not fill the memory."""
    broker = RemoteBroker(lambda: None, (), outbox=3)
    for n in range(5):
        broker.dispatch("alice", {"n": n})
    assert [event["n"] for _, _, event in broker._outbox] == [2, 3, 4]
    assert (broker.figures.dropped, broker.figures.waiting) == (2, 3)


async def test_an_event_that_cannot_be_written_down_stays_here_and_is_counted(url):
    """And holds up no other."""
    async with Replica(url) as one, Replica(url) as two, two.connections.connect("alice") as inbox:
        one.broker.dispatch("alice", {"n": object()})
        one.broker.dispatch("alice", {"n": float("nan")})
        one.broker.dispatch("alice", {"n": 1})
        await until(lambda: inbox.pending() == 1)
        assert read(inbox) == [{"n": 1}]
        await until(lambda: one.broker.figures.dropped == 2)


async def test_closing_publishes_what_waits_and_leaves_nothing(url):
    """No task, no connection."""
    async with Replica(url) as two, two.connections.connect("alice") as inbox:
        async with Replica(url) as one:
            for n in range(100):
                one.broker.dispatch("alice", {"n": n})
        await until(lambda: inbox.pending() == 100)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_start_that_is_cancelled_leaves_nothing(monkeypatch):
    """The server does not answer, and nobody waits for it any more."""
    broker = make_broker(f"redis://127.0.0.1:{servers.free_port()}/0")
    task = asyncio.create_task(broker.start(lambda user, event: 1))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert asyncio.all_tasks() == {asyncio.current_task()}


@given(st.text(max_size=30_000), st.integers(1, 3))
async def test_long_messages_survive_their_parts(text, copies):
    """Cut at any length, in order."""
    link = PostgresLink("postgresql://nobody", "x")
    messages = [json.dumps([n, text]) for n in range(copies)]
    joined = [link._join(part) for message in messages for part in link._split(message)]
    assert [message for message in joined if message is not None] == messages


async def test_one_replica_needs_no_server():
    """It delivers by itself."""
    broker, connections = make_broker(None), Connections()
    assert isinstance(broker, LocalBroker)
    assert broker.dispatch("alice", {}) == 0
    await broker.start(connections.dispatch)
    async with connections.connect("alice") as inbox:
        assert broker.dispatch("alice", {"n": 1}) == 1
        assert await inbox.receive() == {"n": 1}
    await broker.aclose()
    assert broker.figures.connected


@pytest.mark.parametrize("url", ["kafka://x", "", "nonsense"])
async def test_a_scheme_that_is_unknown_is_refused_with_those_that_are_not(url):
    """When the backend is made."""
    with pytest.raises(ValueError, match="there are redis://…, valkey://… and postgresql://…"):
        make_broker(url)


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:notaport/0", "postgresql://u:p@127.0.0.1:99999/db", "redis://127.0.0.1/0?socket_timeout=x"],
)
async def test_a_url_with_which_nobody_could_connect_is_refused(url):
    """When the backend is made, and without its password: else it would try for ever."""
    with pytest.raises(ValueError, match=r"the broker's URL is no good .*://user:password@host:port") as refused:
        make_broker(url)
    assert "u:p@" not in str(refused.value)


async def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    """And nothing is imported before it is needed."""
    import sys

    monkeypatch.delitem(sys.modules, "reference_impl.broker_redis", raising=False)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ValueError, match=r"pip install 'pytest-isolation\[valkey\]'"):
        make_broker("redis://127.0.0.1/0")
