"""Finds out what somebody wants tested, and serves it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from pytest_isolation.backend import find_factory
from pytest_isolation.errors import BackendError, MisuseError
from pytest_isolation.targets.extra import asgi_extra
from pytest_isolation.targets.loopback import is_local
from pytest_isolation.targets.marks import Who

FORMS = 'an ASGI or a WSGI application, "pkg.mod:app", ["command", "--port", "{port}"], or "http://127.0.0.1:8000"'
_URL = re.compile(r"https?://[^/\s]+\S*")


class Served(Protocol):
    """An application that can be reached.

    Attributes:
        url: where, without a slash at its end.
        hears_marks: it is told whose a request is (``targets.marks``).
    """

    url: str
    hears_marks: bool

    def close(self) -> None:
        """Stop it, if this test has started it."""


class RunningServer:
    """A server that somebody else has started, and that runs on.

    Args:
        url: ``http://…`` or ``https://…``.
        allow_remote: it may be on another machine.

    Raises:
        MisuseError: it is, and may not.
    """

    def __init__(self, url: str, allow_remote: bool = False) -> None:
        if not allow_remote and not is_local(url):
            raise MisuseError(
                f"isolation_app is {url!r}, which is not this machine, and crowds and planted secrets would be sent "
                "there. If that server is yours to test: --isolation-allow-remote"
            )
        self.url = url.rstrip("/")
        self.hears_marks = False

    def close(self) -> None:
        """It was running before."""


def serve(app: object, allow_remote: bool = False, who: Who | None = None) -> Served:
    """Serve an application on a socket of this machine.

    Args:
        app: see ``FORMS``.
        allow_remote: a URL may lead to another machine.
        who: tells an application that is served in this process whose a request is.

    Raises:
        MisuseError: it is nothing of the kind, does not start, or a library is missing.
    """
    if isinstance(app, str) and _URL.fullmatch(app):
        return RunningServer(app, allow_remote)
    if isinstance(app, list | tuple):
        from pytest_isolation.targets.command import CommandServer

        return CommandServer(app)
    if isinstance(app, str):
        app = _imported(app)
    kind = kind_of(app)
    if callable(app) and kind is Kind.FACTORY:
        app = _made(app)
        kind = kind_of(app)
    if not callable(app):
        raise MisuseError(f"isolation_app is {app!r:.100}, and this cannot be served. Return {FORMS}")
    if kind is Kind.ASGI:
        with asgi_extra("an ASGI application"):
            import uvicorn  # noqa: F401

        from pytest_isolation.targets.asgi import AsgiServer

        return AsgiServer(app, who)
    if kind is Kind.WSGI:
        from pytest_isolation.targets.wsgi import WsgiServer

        return WsgiServer(app, who=who)
    raise MisuseError(
        f"isolation_app is {app!r:.100}, and its signature does not say whether it is ASGI or WSGI. Return a function "
        "that hands over to it: `async def app(scope, receive, send)` is an ASGI application, "
        "`def app(environ, start_response)` a WSGI one"
    )


class Kind(Enum):
    """What an application is, as far as its signature says."""

    ASGI = "asgi"
    WSGI = "wsgi"
    FACTORY = "factory"
    UNCLEAR = "unclear"


def kind_of(app: object) -> Kind:
    """ASGI is called with three arguments and awaited, WSGI is called with two, a function that makes one with none."""
    if not callable(app) or inspect.isclass(app):
        return Kind.UNCLEAR
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return Kind.UNCLEAR
    is_async = inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004
    takes = {count for count in (0, 2, 3) if _takes(signature, count)}
    if 3 in takes and (is_async or 2 not in takes):
        return Kind.ASGI
    if 2 in takes and 3 not in takes and not is_async:
        return Kind.WSGI
    return Kind.FACTORY if takes == {0} else Kind.UNCLEAR


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _imported(name: str) -> Callable[..., Any]:
    if not re.fullmatch(r"[\w.]+:[\w.]+", name):
        raise MisuseError(f"isolation_app is {name!r}, which is neither a URL nor pkg.mod:app. Return {FORMS}")
    folder = str(Path.cwd())  # as uvicorn and gunicorn do: a module is looked for where the command was typed
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return find_factory(name)
    except BackendError as error:
        raise MisuseError(f"isolation_app is {error}") from error


def _made(factory: Callable[[], object]) -> object:
    name = getattr(factory, "__qualname__", repr(factory))
    try:
        app = factory()
    except Exception as error:
        raise MisuseError(f"isolation_app: {name}() raised {type(error).__name__}: {error}") from error
    if inspect.iscoroutine(app):
        app.close()
        raise MisuseError(f"isolation_app: {name}() is async; what has to be awaited belongs into the app's lifespan")
    return app
