"""Watches a client of httpx: a connection of its pool is lent to a request until its response is closed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_isolation.users.lendings import Lendings


def pool_of(client: Any) -> Any:
    """The pool of connections of a client; None if it is no client of httpx, or has another transport."""
    if not type(client).__module__.startswith("httpx"):
        return None
    return getattr(getattr(client, "_transport", None), "_pool", None)


@contextmanager
def watch_client(pool: Any, lendings: Lendings, name: str | None = None, limit: int | None = None) -> Iterator[None]:
    """Watch the responses of a client, sync or async, until the block ends.

    Args:
        pool: of the client.
        lendings: keeps what is lent.
        name: of the client in reports.
        limit: how many connections may be lent at once; None is the client's own, if it has one.
    """
    shares = getattr(pool, "_http2", False)  # many responses over one connection
    most = limit or (None if shares else getattr(pool, "_max_connections", None))
    lending = lendings.watch(name or "client of httpx", most if isinstance(most, int) else None, noun="response")
    method, close = "handle_request", "close"
    if hasattr(pool, "handle_async_request"):
        method, close = "handle_async_request", "aclose"
    handle: Callable[[Any], Any] = getattr(pool, method)

    def lend(response: Any) -> Any:
        stream = response.stream
        end = getattr(stream, close)

        def ended() -> Any:
            if lending.is_lent(stream):  # a response may be closed any number of times
                lending.released(stream)
            return end()

        setattr(stream, close, ended)
        lending.acquired(stream)
        return response

    async def lend_later(response: Any) -> Any:
        return lend(await response)

    def handled(request: Any) -> Any:
        response = handle(request)
        return lend_later(response) if inspect.isawaitable(response) else lend(response)

    vars(pool)[method] = handled
    try:
        yield
    finally:
        del vars(pool)[method]
