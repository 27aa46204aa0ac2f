"""A user's own HTTP client: whatever it receives is observed."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Iterator
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from typing import Any, Protocol, cast

import httpx

from pytest_isolation.model import Observation, Response
from pytest_isolation.targets.events import EventStream
from pytest_isolation.targets.loopback import refuse_remote
from pytest_isolation.targets.marks import MARK, Reach
from pytest_isolation.users.cast import User, keep
from pytest_isolation.users.snapshot import Bag
from pytest_isolation.users.transcript import parse_json, rename

_PATIENCE_S = 30.0
_KEPT_S = 4.0  # less than most servers keep a connection, so that none is used as it closes

# They change by nature, or follow from the rest.
_LEFT_OUT = frozenset(
    {
        *("age", "connection", "content-length", "date", "expires", "keep-alive", "last-modified", "server"),
        *("server-timing", "transfer-encoding", "x-process-time", "x-response-time", "x-runtime"),
    }
)
# What stands in the place of a number, a UUID or a token in a path; v1 and oauth2 are names.
_NAME = re.compile(r"\D*|[a-z]+\d")
_LONGEST_NAME = 30


class Client(httpx.Client):
    """A user's client in a sync test.

    Args:
        user: who observes.
        reach: what it reaches.
    """

    def __init__(self, user: User, reach: Reach) -> None:
        super().__init__(**_options(reach.url), event_hooks={"request": [self._check]})
        self._user, self._reach = user, reach

    def _check(self, request: httpx.Request) -> None:
        """Redirects come here too."""
        _prepare(request, self._reach)

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and observe what comes back."""
        response = _heard(self._user, super().send(request, stream=True, **options))
        if not stream:
            try:
                response.read()
            except BaseException:  # what has come by then was seen
                response.close()
                raise
        return response


class AsyncClient(httpx.AsyncClient):
    """A user's client in an async test.

    Args:
        user: who observes.
        reach: what it reaches.
    """

    def __init__(self, user: User, reach: Reach) -> None:
        super().__init__(**_options(reach.url), event_hooks={"request": [self._check]})
        self._user, self._reach = user, reach

    async def _check(self, request: httpx.Request) -> None:
        """Redirects come here too."""
        _prepare(request, self._reach)

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and observe what comes back."""
        response = _heard(self._user, await super().send(request, stream=True, **options))
        if not stream:
            try:
                await response.aread()
            except BaseException:  # what has come by then was seen
                await response.aclose()
                raise
        return response


class _TrustedPath(DefaultCookiePolicy):
    """Sends ``Secure`` cookies too: to this machine a connection is as good as one with TLS, as for browsers."""

    def set_ok(self, cookie: Cookie, request: Any) -> bool:
        """Take a cookie."""
        cookie.secure = False
        return super().set_ok(cookie, request)


def _options(url: str) -> dict[str, Any]:
    return {
        "base_url": url,
        "timeout": _PATIENCE_S,
        "trust_env": False,
        "verify": ssl.create_default_context() if url.startswith("https:") else False,
        "cookies": CookieJar(_TrustedPath()),
        "limits": httpx.Limits(keepalive_expiry=_KEPT_S),
    }


def _prepare(request: httpx.Request, reach: Reach) -> None:
    """Refuse a request to another machine, and mark one to an application of ours.

    Raises:
        MisuseError: it is to another machine.
    """
    refuse_remote(str(request.url), reach.allow_remote)
    if reach.mark is not None and str(request.url).startswith(f"{reach.url}/"):
        request.headers[MARK] = reach.mark
    else:
        request.headers.pop(MARK, None)


def _heard(user: User, response: httpx.Response) -> httpx.Response:
    """Have a user observe a response, when its body ends, and those that led to it."""
    for earlier in response.history:
        _observe(user, earlier, earlier.content)
    listener: _Listener = (_EventListener if _brings_events(response) else _BodyListener)(user, response)
    kind = _AsyncTee if isinstance(response.stream, httpx.AsyncByteStream) else _Tee
    response.stream = kind(response.stream, listener)
    return response


def _brings_events(response: httpx.Response) -> bool:
    """They are observed as they come, unless they are compressed."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "text/event-stream" and "content-encoding" not in response.headers


def _observe(user: User, response: httpx.Response, content: bytes) -> None:
    request = response.request
    seen = {  # nobody else has it, so it need not be copied
        "status": response.status_code,
        "headers": _headers(response.headers.multi_items()),
        "body": _body(content, response.charset_encoding),
    }
    about = Response(
        request.method,
        str(request.url),
        response.status_code,
        tuple(response.headers.multi_items()),
        tuple(pair for pair in request.headers.multi_items() if pair[0] != MARK),
    )
    keep(user, Observation(channel_of(user, request.method, request.url.path), seen, about))


def channel_of(user: User, method: str, path: str) -> str:
    """What answers of this kind are called: the same for all users, whatever is in their paths.

    Args:
        user: whose cast knows the names of canaries.
        method: ``GET``, or ``WS``.
        path: without a query.
    """
    named = rename(path, lambda hit: f"{{{user.name_of(hit)}}}")
    return f"{method} " + "/".join(part if _is_name(part) else "{}" for part in named.split("/"))


def _is_name(part: str) -> bool:
    return "{" in part or (len(part) <= _LONGEST_NAME and _NAME.fullmatch(part) is not None)


def _headers(pairs: list[tuple[str, str]]) -> dict[str, object]:
    headers: dict[str, object] = {}
    for name, value in pairs:
        if name in _LEFT_OUT:
            continue
        before = headers.get(name)
        headers[name] = value if before is None else Bag([*(before if isinstance(before, Bag) else [before]), value])
    return headers


def _body(content: bytes, charset: str | None) -> object:
    """What JSON says, else the text, else the bytes."""
    try:
        text = content.decode(charset or "utf-8")
    except (UnicodeDecodeError, LookupError):
        return content
    parsed = parse_json(text)
    return text if parsed is None else parsed


def _decoded(response: httpx.Response, raw: bytes) -> bytes:
    """The body of a stream as far as it was read."""
    try:
        return httpx.Response(response.status_code, headers=response.headers, content=raw).content
    except httpx.DecodingError:  # it was left in the middle
        return raw


class _Listener(Protocol):
    def hear(self, chunk: bytes) -> None:
        """Some of the body."""

    def end(self) -> None:
        """The body is over, or nobody reads on."""


class _BodyListener:
    """Has a body observed as one."""

    def __init__(self, user: User, response: httpx.Response) -> None:
        self._user, self._response, self._kept = user, response, bytearray()

    def hear(self, chunk: bytes) -> None:
        self._kept += chunk

    def end(self) -> None:
        _observe(self._user, self._response, _decoded(self._response, bytes(self._kept)))


class _EventListener:
    """Has every server-sent event observed when it comes, as a message of a WebSocket is."""

    def __init__(self, user: User, response: httpx.Response) -> None:
        self._user, self._response, self._events = user, response, EventStream()
        self._channel = channel_of(user, "SSE", response.request.url.path)

    def hear(self, chunk: bytes) -> None:
        for event in self._events.feed(chunk):
            data = parse_json(event["data"])
            self._user.observe({**event, "data": event["data"] if data is None else data}, self._channel)

    def end(self) -> None:
        _observe(self._user, self._response, b"")


class _Tee(httpx.SyncByteStream):
    """Lets a listener hear what passes."""

    def __init__(self, stream: object, listener: _Listener) -> None:
        self._stream = cast("httpx.SyncByteStream", stream)
        self._listener, self._is_over = listener, False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._listener.hear(chunk)
            yield chunk

    def close(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._listener.end()
        self._stream.close()


class _AsyncTee(httpx.AsyncByteStream):
    """The same in async code."""

    def __init__(self, stream: object, listener: _Listener) -> None:
        self._stream = cast("httpx.AsyncByteStream", stream)
        self._listener, self._is_over = listener, False

    # No generator: trio complains of those that are left before their end, and streams often are.
    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        self._listener.hear(chunk)
        return chunk

    async def aclose(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._listener.end()
        await self._stream.aclose()
