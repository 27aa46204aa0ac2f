"""Messages between replicas through pub/sub of Redis or Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

_SILENCE_S = 10.0
_ANSWER_S = 5.0
FAILED: tuple[type[Exception], ...] = (RedisError,)


class RedisLink:
    """One connection to Redis or Valkey, for one task.

    Args:
        url: ``redis://…``, ``rediss://…`` or ``valkey://…``.
        channel: on which messages go.
    """

    def __init__(self, url: str, channel: str) -> None:
        self._channel = channel
        self._client = Redis.from_url(
            url.replace("valkey://", "redis://", 1),
            single_connection_client=True,
            decode_responses=True,
            socket_connect_timeout=2.0,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),  # whether and when to try again is the broker's business
        )
        self._subscription = self._client.pubsub()

    async def publish(self, messages: Sequence[str]) -> None:
        """Pass messages on, in one round trip."""
        pipeline = self._client.pipeline(transaction=False)
        for message in messages:
            pipeline.publish(self._channel, message)
        await pipeline.execute()

    async def listen(self, listening: Callable[[], None], receive: Callable[[str], None]) -> None:
        """Receive messages until the connection breaks."""
        async with asyncio.timeout(_ANSWER_S):
            await self._subscription.subscribe(self._channel)
            # The answer to SUBSCRIBE is the first thing that arrives; from then on nothing is missed.
            await self._subscription.get_message(timeout=None)
        listening()
        asked = False
        while True:
            message = await self._subscription.get_message(timeout=_SILENCE_S)
            if message is None:  # a server that was cut off, and not closed, never says so
                if asked:
                    raise ConnectionError(f"no answer within {_SILENCE_S:g} s")
                asked = True
                await self._subscription.ping()
                continue
            asked = False
            if message["type"] == "message" and isinstance(message["data"], str):
                receive(message["data"])

    async def aclose(self) -> None:
        """Close the connection, whatever was under way on it."""
        await self._subscription.aclose()  # type: ignore[no-untyped-call]
        await self._client.aclose()
        await self._client.connection_pool.disconnect(inuse_connections=True)
