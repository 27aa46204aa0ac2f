"""The connections between a proxy and the application: when one is closed, no answer is lost and no request doubled."""

import asyncio

import h11
import pytest

from pytest_isolation.targets.upstream import Exchange, NoAnswer, Upstream

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"


def ask(serve, *methods, connections=1, pipeline=False, pause_s=0.0):
    """Send requests to a server that is a function of (reader, writer, number of the connection); their answers."""

    async def main():
        opened = 0

        async def accept(reader, writer):
            nonlocal opened
            opened += 1
            try:
                await serve(reader, writer, opened)
            except (asyncio.IncompleteReadError, ConnectionResetError):  # the proxy has closed it
                pass
            finally:
                writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            upstream = Upstream(*server.sockets[0].getsockname(), connections, pipeline)
            exchanges = [
                Exchange(h11.Request(method=method, target="/", headers=[("host", "x")]), b"") for method in methods
            ]
            for exchange in exchanges:
                upstream.send(exchange)
                await asyncio.sleep(pause_s)
            answers = [await asyncio.wait_for(whole(exchange), 10) for exchange in exchanges]
            await upstream.aclose()
        return answers, opened

    return asyncio.run(main())


async def whole(exchange):
    """A body, or what went wrong."""
    body = b""
    while (event := await exchange.events.get()) is not None:
        if isinstance(event, NoAnswer):
            return event
        body += event.data if isinstance(event, h11.Data) else b""
    return body


async def requests(reader):
    while True:
        yield await reader.readuntil(b"\r\n\r\n")


def test_requests_share_a_connection():
    """One after another."""

    async def serve(reader, writer, number):
        async for _ in requests(reader):
            writer.write(OK + b"%d" % number)

    assert ask(serve, "GET", "POST", "GET") == ([b"1", b"1", b"1"], 1)


def test_several_connections_are_used_at_once():
    """Nobody waits behind another while one is free."""
    both = asyncio.Barrier(2)

    async def serve(reader, writer, number):
        async for _ in requests(reader):
            await both.wait()
            writer.write(OK + b"1")

    assert ask(serve, "GET", "GET", connections=2) == ([b"1", b"1"], 2)


def test_what_comes_together_goes_out_in_one_piece():
    """If a pipeline is wanted: the answers are awaited only then."""

    async def serve(reader, writer, number):
        heads = [await reader.readuntil(b"\r\n\r\n") for _ in range(3)]
        writer.write(b"".join(OK + b"%d" % at for at, _ in enumerate(heads)))

    assert ask(serve, "GET", "GET", "PUT", pipeline=True) == ([b"0", b"1", b"2"], 1)


def test_what_must_not_be_repeated_is_not_pipelined():
    """A POST goes alone (RFC 9112, section 9.3.2)."""
    waiting = []

    async def serve(reader, writer, number):
        async for _ in requests(reader):
            await asyncio.sleep(0.01)
            waiting.append(bytes(reader._buffer))
            writer.write(OK + b"1")

    ask(serve, "GET", "POST", "GET", pipeline=True)
    assert waiting == [b"", b"", b""]


def test_a_connection_that_was_closed_while_idle_is_opened_again():
    """The request that met it is sent once more."""

    async def serve(reader, writer, number):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"%d" % number)

    assert ask(serve, "GET", "GET", pause_s=0.05) == ([b"1", b"2"], 2)


def test_what_had_no_answer_when_a_connection_was_closed_goes_over_a_new_one():
    """Of several that went out together."""

    async def serve(reader, writer, number):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"content", b"connection: close\r\ncontent") + b"%d" % number)

    assert ask(serve, "GET", "GET", "GET", pipeline=True) == ([b"1", b"2", b"3"], 3)


def test_a_connection_that_is_closed_between_two_answers_without_a_word_is_opened_again():
    """As uvicorn does after an error."""

    async def serve(reader, writer, number):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"%d" % number)

    assert ask(serve, "GET", "GET", "GET", pipeline=True) == ([b"1", b"2", b"3"], 3)


def test_a_stream_holds_no_connection_that_others_wait_for():
    """One more is opened for them."""

    async def serve(reader, writer, number):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"length: 1", b"length: 2") + b"1")
        await asyncio.sleep(0 if number > 1 else 1.5)
        writer.write(b"%d" % number)

    assert ask(serve, "GET", "GET") == ([b"11", b"12"], 2)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut", b"what?\r\n\r\n"])
def test_an_answer_that_is_none_is_an_error_of_its_own_request_only(answer):
    """The next one is answered."""

    async def serve(reader, writer, number):
        async for _ in requests(reader):
            writer.write(answer if number == 1 else OK + b"2")
            if number == 1:
                return

    [first, second], _ = ask(serve, "GET", "GET", pause_s=0.05)
    assert isinstance(first, NoAnswer)
    assert second == b"2"


def test_nobody_listens():
    """Every request is told so."""

    async def main():
        upstream = Upstream("127.0.0.1", 9, 1, False)
        exchange = Exchange(h11.Request(method="GET", target="/", headers=[("host", "x")]), b"")
        upstream.send(exchange)
        answer = await whole(exchange)
        await upstream.aclose()
        return answer

    assert "ConnectionRefusedError" in str(asyncio.run(main()))


class Served:
    """A server some of whose answers are streams, until they are told to end; and what is open to it.

    Attributes:
        open: so many connections.
        most: that were open at once.
        ending: lets streams end.
    """

    def __init__(self):
        self.open = self.most = 0
        self.ending = asyncio.Event()

    async def accept(self, reader, writer):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            async for head in requests(reader):
                writer.write(OK.replace(b"length: 1", b"length: 2") + b"a")
                if b"/stream" in head:
                    await self.ending.wait()
                writer.write(b"z")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def until(self, count):
        """Wait for so many connections: one is seen to be closed a moment after it was."""
        async with asyncio.timeout(10):
            while self.open != count:
                await asyncio.sleep(0.001)


def asked(upstream, target="/"):
    exchange = Exchange(h11.Request(method="GET", target=target, headers=[("host", "x")]), b"")
    upstream.send(exchange)
    return asyncio.create_task(whole(exchange))


def test_what_was_opened_for_streams_is_closed_when_they_have_ended(monkeypatch):
    """However often there are some, and though some are busy when others end."""
    monkeypatch.setattr("pytest_isolation.targets.upstream.LONG_S", 0.01)

    async def main():
        served = Served()
        async with await asyncio.start_server(served.accept, "127.0.0.1", 0) as server:
            upstream = Upstream(*server.sockets[0].getsockname(), 2, False)
            for _ in range(3):
                served.ending.clear()
                streams = []
                for _ in range(4):
                    streams.append(asked(upstream, "/stream"))
                    assert await asyncio.wait_for(asked(upstream), 10) == b"az"  # nobody waits for them
                served.ending.set()
                assert await asyncio.gather(*streams) == [b"az"] * 4
                await served.until(2)
            assert await asyncio.gather(*(asked(upstream) for _ in range(6))) == [b"az"] * 6
            still = served.open
            await upstream.aclose()
            await served.until(0)
        return still, served.most

    still, most = asyncio.run(main())
    assert still == 2
    assert most <= 2 + 4


def test_a_stream_that_is_cut_has_ended_too(monkeypatch):
    """Its user has gone."""
    monkeypatch.setattr("pytest_isolation.targets.upstream.LONG_S", 0.01)

    async def main():
        served = Served()
        async with await asyncio.start_server(served.accept, "127.0.0.1", 0) as server:
            upstream = Upstream(*server.sockets[0].getsockname(), 1, False)
            for _ in range(3):
                exchange = Exchange(h11.Request(method="GET", target="/stream", headers=[("host", "x")]), b"")
                upstream.send(exchange)
                assert await asyncio.wait_for(asked(upstream), 10) == b"az"
                exchange.cut()
                served.ending.set()
                assert isinstance(await whole(exchange), NoAnswer)
                assert await asked(upstream) == b"az"
                served.ending.clear()
            assert await asyncio.gather(*(asked(upstream) for _ in range(6))) == [b"az"] * 6
            still = served.open
            await upstream.aclose()
        return still

    assert asyncio.run(main()) == 1
