"""Finds what is needed to reach an application: its libraries are an extra, and are missed only by who asks for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_isolation.backend import find_factory
from pytest_isolation.errors import MisuseError

if TYPE_CHECKING:
    from pytest_isolation.load.web import AppTarget, UrlTarget

_EXTRA = "--app and --url need an extra: pip install 'pytest-isolation[load]'"


def served_app(app: str, token: str | None) -> AppTarget:
    """An application that will be served in a process of its own.

    Args:
        app: ``MOD:APP``.
        token: ``MOD:FUNCTION``, from a user's id to its token; None signs as the reference application does.

    Raises:
        MisuseError: the function is not there, or a library is missing.
    """
    try:
        import uvicorn  # noqa: F401 # needed by the child

        from pytest_isolation.load.web import AppTarget
    except ImportError as error:
        raise MisuseError(f"{_EXTRA} ({error})") from error
    return AppTarget(app, _sign(token))


def running_server(url: str, token: str | None) -> UrlTarget:
    """A server that runs already.

    Raises:
        MisuseError: this is no address, the function is not there, or a library is missing.
    """
    if not re.fullmatch(r"https?://[^/\s]+\S*", url):
        raise MisuseError(f"--url takes the address of a server, such as http://127.0.0.1:8000, not {url!r}")
    try:
        from pytest_isolation.load.web import UrlTarget
    except ImportError as error:
        raise MisuseError(f"{_EXTRA} ({error})") from error
    return UrlTarget(url, _sign(token))


def _sign(token: str | None) -> Any:
    return None if token is None else find_factory(token)
