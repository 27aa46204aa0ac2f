"""An application behind HTTP and WebSocket, with the routes of the reference application; ours or anybody's."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from pytest_isolation.errors import MisuseError
from pytest_isolation.load.target import ConnectionLost, Receive, Refused, WrongAnswer
from pytest_isolation.users.cast import User

SECRET = "REFERENCE_TOKEN_SECRET"
_STARTING_S, _CLOSING_S = 60.0, 10.0
_SHOWN = 200
_KEPT_S = 4.0  # less than most servers keep a connection, so that none is used as it closes

Sign = Callable[[str], str]


class UrlTarget:
    """A server that somebody else has started.

    Args:
        url: ``http://…`` or ``https://…``.
        sign: from a user's id to its token; None signs as the reference application does.

    Attributes:
        name: for the report.
        url: see above.
    """

    def __init__(self, url: str, sign: Sign | None = None) -> None:
        self.name = self.url = url
        self._sign = sign
        self._context: ssl.SSLContext | bool = False

    async def start(self) -> None:
        """Get ready to connect.

        Raises:
            MisuseError: tokens cannot be signed.
        """
        if self._sign is None:
            self._sign = signer(os.environ.get(SECRET))
        self._context = ssl.create_default_context() if self.url.startswith("https:") else False

    async def aclose(self) -> None:
        """It was running before, and runs on."""

    @property
    def pid(self) -> int | None:
        """It may be on another machine."""
        return None

    def seat(self) -> WebSeat:
        """A new place."""
        assert self._sign is not None, "start() comes first"
        return WebSeat(self.url, self._sign, self._context)


class AppTarget(UrlTarget):
    """An ASGI application, served by uvicorn in a process of its own on a free port of 127.0.0.1.

    Args:
        app: ``MOD:APP``, an application or a function that makes one.
        sign: from a user's id to its token; None signs as the reference application does.
    """

    def __init__(self, app: str, sign: Sign | None = None) -> None:
        super().__init__("", sign)
        self.name = f"{app}, served by uvicorn in a process of its own"
        self._app = app
        self._process: asyncio.subprocess.Process | None = None
        self._said: deque[str] = deque(maxlen=20)
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process.

        Raises:
            MisuseError: it ended at once, or does not get ready.
        """
        secret = os.environ.get(SECRET) or secrets.token_urlsafe(32)
        self._sign = self._sign or signer(secret)
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest_isolation.load.child", self._app),
            env={**os.environ, SECRET: secret},
            stdin=pipe,  # when it closes, even because this process was killed, the child ends
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,  # Ctrl-C is for us; the server is needed until the last answer
        )
        self._listening = asyncio.create_task(self._hear(self._process))
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_STARTING_S):
                port = await self._process.stdout.readline()
        except TimeoutError:
            raise MisuseError(f"--app {self._app} is not ready after {_STARTING_S:g} s{self._last_words()}") from None
        if not port:
            await self._listening
            raise MisuseError(f"--app {self._app} ended before it was ready{self._last_words()}")
        self.url = f"http://127.0.0.1:{int(port)}"

    async def aclose(self) -> None:
        """Have the process end, gently at first."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_CLOSING_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._listening is not None:
            await self._listening

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid if self._process is not None else None

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        """Keep what the server says last, and let it never wait for a reader."""
        assert process.stderr is not None
        while line := await process.stderr.readline():
            self._said.append(line.decode("utf-8", "replace"))

    def _last_words(self) -> str:
        return ":\n" + "".join(self._said).rstrip() if self._said else ""


class WebSeat:
    """Where a user of an application sits: a connection that is kept for whoever comes next, as behind a proxy.

    Args:
        url: of the application.
        sign: from a user's id to its token.
        context: for TLS.
    """

    def __init__(self, url: str, sign: Sign, context: ssl.SSLContext | bool) -> None:
        # Our own patience ends a request, so that the same time counts for all targets.
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=None,  # noqa: S113
            trust_env=False,
            verify=context,
            limits=httpx.Limits(keepalive_expiry=_KEPT_S),
        )
        self._socket_url = f"ws{url.removeprefix('http').rstrip('/')}/ws"
        self._sign = sign

    async def ask(self, user: User, message: str, end: str = "") -> str:  # nobody can send an event here
        """``POST /chat``."""
        answer = self._right(await self._send(user, "POST", "/chat", {"message": message}), "answer")
        if not isinstance(answer, str):
            raise WrongAnswer(f"the answer is {answer!r}, and not a text")
        return answer

    @asynccontextmanager
    async def listen(self, user: User) -> AsyncIterator[Receive]:
        """``WS /ws``."""
        with _network():
            socket = await connect(
                self._socket_url,
                additional_headers=self._bearer(user),
                compression=None,
                max_queue=None,
                open_timeout=None,
                close_timeout=1,
                proxy=None,
            )
        try:

            async def receive() -> object:
                with _network():
                    return user.observe(await socket.recv(), "event")

            yield receive
        finally:
            await socket.close()

    def is_last(self, event: object, message: str, end: str) -> bool:
        """The event that completes the answer; several may come as one message."""
        try:
            content = json.loads(event) if isinstance(event, str | bytes) else None
        except ValueError:
            raise WrongAnswer(f"an event is no JSON: {event!r}") from None
        events = content if isinstance(content, list) else [content]
        return any(
            isinstance(one, dict) and one.get("kind") == "agent_completed" and message in str(one.get("answer"))
            for one in events
        )

    async def read(self, user: User) -> Sequence[str]:
        """``GET /messages``."""
        texts = self._right(await self._send(user, "GET", "/messages"), "messages")
        if not isinstance(texts, list):
            raise WrongAnswer(f"the messages are {texts!r}, and not a list")
        return texts

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def _send(self, user: User, method: str, path: str, content: object = None) -> httpx.Response:
        with _network():
            return user.observe(await self._client.request(method, path, headers=self._bearer(user), json=content))

    def _bearer(self, user: User) -> dict[str, str]:
        return {"authorization": f"Bearer {self._sign(user.id)}"}

    def _right(self, response: httpx.Response, name: str) -> object:
        if response.status_code != 200:
            asked = f"{response.request.method} {response.request.url.path}"
            raise Refused(asked, response.status_code, response.text[:_SHOWN])
        try:
            return response.json()[name]
        except (ValueError, LookupError, TypeError):
            raise WrongAnswer(f"no JSON object with {name!r}: {response.text[:_SHOWN]!r}") from None


@contextmanager
def _network() -> Iterator[None]:
    """Say of every library's errors what they mean."""
    try:
        yield
    except InvalidStatus as error:
        raise Refused("WS /ws", error.response.status_code, "the WebSocket was refused") from error
    except (httpx.TransportError, WebSocketException, OSError) as error:
        raise ConnectionLost(f"{type(error).__name__}: {error}") from error


def signer(secret: str | None) -> Sign:
    """Signs tokens as the reference application does.

    Args:
        secret: the one that the server has.

    Raises:
        MisuseError: there is none, or the library is missing.
    """
    if not secret:
        raise MisuseError(
            f"nobody knows how to sign tokens for the server: export {SECRET}=…, the same as the server's, "
            "or name a function from a user's id to its token with --token MOD:FUNCTION"
        )
    try:
        # By its name: the two packages know each other by their shapes alone.
        sign: Sign = import_module("reference_impl.tokens").Tokens(secret).issue
    except ImportError as error:
        raise MisuseError(
            f"tokens of the reference application need an extra: pip install 'pytest-isolation[reference]' ({error})"
        ) from error
    return sign
