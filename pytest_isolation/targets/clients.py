"""Everything between the users of a test and the application: started when first needed, and closed in any case."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio

from pytest_isolation.awaited import refuse_uncallable
from pytest_isolation.errors import MisuseError
from pytest_isolation.loops import in_async_code
from pytest_isolation.targets.extra import asgi_extra
from pytest_isolation.targets.intermediary import Proxy
from pytest_isolation.targets.loopback import refuse_remote
from pytest_isolation.targets.marks import MARK, Reach, mark_of
from pytest_isolation.targets.serving import FORMS, Served, serve
from pytest_isolation.users.cast import User

_LEAVING_S = 2.0

Login = Callable[[User, Any], Awaitable[object] | object]
LOGIN = "the fixture isolation_login, which returns `async def login(user, client)`"

HOW = f"""no application was named. Override the fixture `isolation_app` in conftest.py:

    @pytest.fixture
    def isolation_app():
        return app

where app is {FORMS}"""


class NoApp:
    """What the fixture `isolation_app` gives where nobody has overridden it."""


class Clients:
    """The clients of the users of one test, and the application that they reach.

    Args:
        app: what is to be served (``serving.FORMS``).
        allow_remote: it may be a URL of another machine.
        login: what every user does first that is not anonymous, given itself and its HTTP client.
        proxy: what stands before the application for HTTP.

    Raises:
        MisuseError: the login is no function, the proxy is none, or has no application behind it.
    """

    def __init__(
        self, app: object, allow_remote: bool = False, login: Login | None = None, proxy: Proxy | None = None
    ) -> None:
        if login is not None:
            refuse_uncallable(login, LOGIN)
        if proxy is not None:
            _refuse_useless(proxy, app)
        self._app = app
        self._proxy = proxy
        self._proxied: Served | None = None
        self._allow_remote = allow_remote
        self._login = login
        self._served: Served | None = None
        self._starting = threading.Lock()
        self._clients: dict[tuple[User, bool], Any] = {}
        self._present: dict[str, User] = {}

    def url(self) -> str:
        """Where the application is; it is started at the first call.

        Raises:
            MisuseError: there is none, or it does not start.
        """
        if isinstance(self._app, NoApp):
            raise MisuseError(HOW)
        with self._starting:
            if self._served is None:
                self._served = serve(self._app, self._allow_remote, self._present.get)
            return self._served.url

    def front(self) -> str:
        """Where users reach it over HTTP: the proxy, if there is one.

        Raises:
            MisuseError: one of them does not start.
        """
        url = self.url()
        if self._proxy is None:
            return url
        with self._starting:
            if self._proxied is None:
                with asgi_extra("isolation_proxy"):
                    from pytest_isolation.targets.proxy import ProxyServer
                self._proxied = ProxyServer(url, self._proxy)
            return self._proxied.url

    def http(self, user: User) -> Any:
        """A user's HTTP client, made at the first call."""
        key = user, in_async_code()
        if key not in self._clients:
            url = self.front()
            with asgi_extra("user.http"):
                from pytest_isolation.targets import http
            reach = Reach(url, self._mark(user), self._allow_remote)
            self._clients[key] = (http.AsyncClient if key[1] else http.Client)(user, reach)
        return self._clients[key]

    def websocket(self, user: User, path: str, options: Mapping[str, Any]) -> Any:
        """A context manager that connects a user's WebSocket, with the cookies and the token of its HTTP client."""
        is_async, url = in_async_code(), self.url()
        with asgi_extra("user.websocket()"):
            from pytest_isolation.targets import websocket
        headers = [*self._credentials(user, path), *dict(options.get("additional_headers") or {}).items()]
        if (mark := self._mark(user)) is not None:
            headers.append((MARK, mark))
        if "host" in options:
            refuse_remote(f"ws://{options['host']}/", self._allow_remote)
        connect = websocket.open_async if is_async else websocket.open_sync
        return connect(user, url, path, {**options, "additional_headers": headers})

    def _mark(self, user: User) -> str | None:
        """What a user's requests bear; None where the application would only wonder."""
        if self._served is None or not self._served.hears_marks:
            return None
        self._present[mark_of(user)] = user
        return mark_of(user)

    def _credentials(self, user: User, path: str) -> list[tuple[str, str]]:
        client = self._clients.get((user, in_async_code()))
        if client is None:
            return []
        headers = client.build_request("GET", path).headers
        return [(name, headers[name]) for name in ("cookie", "authorization") if name in headers]

    def visit(self, user: User | None = None) -> Visit:
        """The time for which a user's connections are open; nobody means everybody's."""
        return Visit(self, user)

    def close(self) -> None:
        """Stop the proxy and the application, if they were started."""
        try:
            if self._proxied is not None:
                self._proxied.close()
        finally:
            if self._served is not None:
                self._served.close()

    def take(self, user: User | None) -> list[Any]:
        """A user's clients, to be closed."""
        if user is None:
            self._present.clear()
        else:
            self._present.pop(mark_of(user), None)
        keys = list(self._clients) if user is None else [(user, True), (user, False)]
        return [self._clients.pop(key) for key in keys if key in self._clients]

    def greet(self, user: User | None) -> Awaitable[object] | None:
        """Begin a user's login, if it has one.

        Returns:
            What is still to be awaited.
        """
        if self._login is None or user is None or user.anonymous:
            return None
        client = self.http(user)
        with _login_named(user):
            value = self._login(user, client)
        return value if inspect.isawaitable(value) else None


def _refuse_useless(proxy: object, app: object) -> None:
    if not isinstance(proxy, Proxy):
        raise MisuseError(
            f"isolation_proxy is {proxy!r:.100}, which is no Proxy. Return pytest_isolation.Proxy(connections=2)"
        )
    if isinstance(app, NoApp):
        raise MisuseError(f"isolation_proxy has nothing behind it: {HOW}")


@contextmanager
def _login_named(user: User) -> Iterator[None]:
    """Say of an error where it comes from."""
    try:
        yield
    except Exception as error:
        raise MisuseError(f"isolation_login failed for {user!r}: {type(error).__name__}: {error}") from error


class Visit:
    """``with`` in sync code, ``async with`` in async code."""

    __slots__ = ("_clients", "_user")

    def __init__(self, clients: Clients, user: User | None) -> None:
        self._clients = clients
        self._user = user

    def __enter__(self) -> None:
        try:
            pending = self._clients.greet(self._user)
        except BaseException:
            self.__exit__()
            raise
        if pending is not None:
            if inspect.iscoroutine(pending):
                pending.close()  # or Python would complain too
            raise MisuseError("isolation_login is async, and this test is not: its login is a plain function")

    def __exit__(self, *error: object) -> None:
        for client in self._clients.take(self._user):
            client.close()

    async def __aenter__(self) -> None:
        try:
            pending = self._clients.greet(self._user)
            if pending is not None and self._user is not None:
                with _login_named(self._user):
                    await pending
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *error: object) -> None:
        for client in self._clients.take(self._user):
            if hasattr(client, "aclose"):
                with anyio.move_on_after(_LEAVING_S, shield=True):
                    await client.aclose()
            else:
                client.close()
