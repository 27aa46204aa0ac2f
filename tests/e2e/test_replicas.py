"""Two replicas behind different ports, and one of them is killed."""

import asyncio
import signal

import pytest
from e2e.conftest import events

pytestmark = pytest.mark.asyncio


async def test_events_arrive_wherever_the_socket_is_and_survive_the_death_of_the_other_replica(
    serve, sockets, valkey_url
):
    """No event reaches a wrong user, and none of those who are left is lost."""
    one, two = serve(broker_url=valkey_url), serve(broker_url=valkey_url)
    users = [f"user-{n}" for n in range(30)]
    async with (
        one.client() as client_one,
        two.client() as client_two,
        sockets(*map(one.socket, users)) as here,
        sockets(*map(two.socket, users)) as there,
    ):

        async def ask(replica, client, turn):
            answers = await asyncio.gather(*(replica.chat(client, u, f"{turn} of {u}", thread=turn) for u in users))
            assert all(answer.status_code == 200 for answer in answers)

        def own(user, received, turn):
            assert [event["sequence"] for event in received] == [1, 2, 3, 4, 5]
            assert f"{turn} of {user}" in received[-1]["answer"]
            assert all(user in str(event.get("answer", user)) for event in received)

        for replica, client, turn in ((one, client_one, "first"), (two, client_two, "second")):
            await ask(replica, client, turn)
            for several in (here, there):
                for user, received in zip(users, await asyncio.gather(*(events(s, 5) for s in several)), strict=True):
                    own(user, received, turn)
        two.signal(signal.SIGKILL)
        await asyncio.to_thread(two.wait)
        await ask(one, client_one, "third")
        for user, received in zip(users, await asyncio.gather(*(events(s, 5) for s in here)), strict=True):
            own(user, received, "third")
        assert all(socket.close_code is not None for socket in there)
        another = serve(broker_url=valkey_url)
        async with another.client() as client:
            await ask(another, client, "fourth")
        for user, received in zip(users, await asyncio.gather(*(events(s, 5) for s in here)), strict=True):
            own(user, received, "fourth")
