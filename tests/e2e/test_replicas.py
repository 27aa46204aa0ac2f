"""Replicas behind different ports, and one of them is killed in the midst of its work."""

import asyncio
import signal

import httpx
import pytest
from e2e.conftest import events, serving

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module", params=["valkey", pytest.param("postgres", marks=pytest.mark.soak)])
def broker_url(request):
    """Valkey, and PostgreSQL with LISTEN and NOTIFY."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(scope="module")
def replicas(broker_url):
    """Two that go on."""
    with serving() as start:
        yield start(broker_url=broker_url), start(broker_url=broker_url)


async def test_events_arrive_wherever_the_socket_is(serve, replicas, sockets, broker_url):
    """Whichever replica is asked; no event reaches a wrong user, and a replica that comes later is one of them."""
    one, two = replicas
    users = [f"user-{n}" for n in range(20)]
    async with (
        one.client() as client_one,
        two.client() as client_two,
        sockets(*map(one.socket, users)) as here,
        sockets(*map(two.socket, users)) as there,
    ):

        async def ask(replica, client, turn, *places):
            answers = await asyncio.gather(*(replica.chat(client, u, f"{turn} of {u}", thread=turn) for u in users))
            assert all(answer.status_code == 200 for answer in answers)
            for several in places:
                for user, received in zip(users, await asyncio.gather(*(events(s, 5) for s in several)), strict=True):
                    assert [event["sequence"] for event in received] == [1, 2, 3, 4, 5]
                    assert f"{turn} of {user}" in received[-1]["answer"]
                    assert all(user in str(event.get("answer", user)) for event in received)

        await ask(one, client_one, "first", here, there)
        await ask(two, client_two, "second", here, there)
        three = serve(broker_url=broker_url)
        async with three.client() as client_three:
            await ask(three, client_three, "third", here, there)


async def ask_all(replica, client, user, turns, half_way):
    """Numbered questions, one after another; after some of them ``half_way`` is told."""
    for turn in range(turns):
        assert (await replica.chat(client, user, f"{turn} of {user}", thread=user)).status_code == 200
        if turn == turns // 3:
            half_way.release()
        await asyncio.sleep(0.01)


async def ask_in_vain(replica, client, user):
    """Until nobody answers any more."""
    with pytest.raises(httpx.TransportError):
        while True:
            await replica.chat(client, user, f"in vain of {user}", thread=user)


async def kill(replica, half_way, users):
    """In the midst of everybody's questions."""
    for _ in users:
        await half_way.acquire()
    replica.signal(signal.SIGKILL)
    await asyncio.to_thread(replica.wait)


async def test_who_is_with_the_others_loses_nothing_when_one_is_killed(serve, replicas, sockets, broker_url):
    """Each asks at a replica that goes on and listens at another one, while a third is killed that answers others."""
    (one, two), doomed = replicas, serve(broker_url=broker_url)
    users, turns, half_way = [f"other-{n}" for n in range(8)], 10, asyncio.Semaphore(0)
    async with (
        one.client() as client,
        doomed.client() as client_of_doomed,
        sockets(*map(two.socket, users)) as opened,
        sockets(*(doomed.socket(f"lost-{n}") for n in range(4))) as lost,
    ):
        async with asyncio.TaskGroup() as tasks:
            for user in users:
                tasks.create_task(ask_all(one, client, user, turns, half_way))
            for n in range(4):
                tasks.create_task(ask_in_vain(doomed, client_of_doomed, f"lost-{n}"))
            tasks.create_task(kill(doomed, half_way, users))
        for user, socket in zip(users, opened, strict=True):
            received = await events(socket, 5 * turns)
            assert [event["sequence"] for event in received] == [1, 2, 3, 4, 5] * turns
            about = [event["about"] for event in received if event["kind"] == "agent_thinking"]
            assert about == [f"{turn} of {user}" for turn in range(turns)]
            with pytest.raises(TimeoutError):  # nothing twice, and nothing of anybody else
                await asyncio.wait_for(socket.recv(), 0.02)
        assert all(socket.close_code is not None for socket in lost)
