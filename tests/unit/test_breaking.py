"""A connection that is to break off under a user does so for real, as far as it can be told which one it is."""

import asyncio
import socket

import pytest

from pytest_isolation.phases.driver import Driver

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def stream():
    """A connection to a server that never answers."""
    accepted = []
    server = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        for one in (writer, *accepted):
            one.transport.abort()
        await asyncio.sleep(0.01)


async def broken(wait, error):
    """What a user meets at its only suspension point, where it would wait for ever."""
    seen = []

    async def scenario(_user):
        try:
            seen.append(await wait())
        except OSError as met:
            seen.append(met)

    counted = Driver()
    task = asyncio.create_task(counted.play(scenario, None))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(10):
        await Driver(counted.points[0], error).play(scenario, None)
    return seen[-1]


async def test_whoever_reads_a_stream_is_told_by_its_transport(stream):
    """And its transport is closed."""
    reader, writer = stream
    error = ConnectionResetError("raised here")
    assert await broken(reader.read, error) is error
    assert writer.transport.is_closing()


async def test_whoever_watches_a_descriptor_finds_its_end():
    """As libpq does, which asks the socket by itself."""
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)

        async def wait_for(fileno):
            loop = asyncio.get_running_loop()
            arrived = loop.create_future()
            loop.add_reader(fileno, lambda: arrived.done() or arrived.set_result(None))
            try:
                await arrived
            finally:
                loop.remove_reader(fileno)

        async def wait():
            await wait_for(ours.fileno())
            return ours.recv(1)

        assert await broken(wait, TimeoutError()) == b""


async def test_where_there_is_none_it_is_raised():
    """As it is if nothing says which connection it may be."""
    error = ConnectionResetError("raised here")
    assert await broken(lambda: asyncio.sleep(3600), error) is error


async def test_what_does_not_come_from_a_network_breaks_nothing(stream):
    """An exception of a user's own."""
    reader, writer = stream

    class Odd(Exception):
        pass

    with pytest.raises(Odd):
        await broken(reader.read, Odd())
    assert not writer.transport.is_closing()
