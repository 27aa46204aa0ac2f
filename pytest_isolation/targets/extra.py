"""The libraries that reach an application are an extra, and are missed only by who asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pytest_isolation.errors import MisuseError


@contextmanager
def asgi_extra(what: str) -> Iterator[None]:
    """Say which extra brings a library that cannot be imported.

    Args:
        what: needs it.

    Raises:
        MisuseError: in the place of the ImportError.
    """
    try:
        yield
    except ImportError as error:
        raise MisuseError(f"{what} needs an extra: pip install 'pytest-isolation[asgi]' ({error})") from error
