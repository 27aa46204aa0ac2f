"""What an object weighs, with everything that only it holds; Pympler does the sizing."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from pytest_isolation.errors import MisuseError


def weigh(thing: object, shared: Iterable[object] = ()) -> int:
    """The bytes of an object and of all that can be reached from it, less what is shared.

    Classes, functions and modules are shared by their nature.

    Args:
        thing: what is weighed.
        shared: what it refers to and others do too; neither that nor what can be reached from it counts.

    Raises:
        MisuseError: Pympler is not installed.
    """
    try:
        asizeof: Any = import_module("pympler.asizeof")  # it has no types
    except ImportError as error:
        raise MisuseError(f"weigh() needs an extra: pip install 'pytest-isolation[memory]' ({error})") from error
    sizer = asizeof.Asizer()
    sizer.asizesof(*shared)  # what has been seen is not counted again
    return int(sizer.asizeof(thing))
