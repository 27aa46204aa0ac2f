"""How users are cut: whether they are cancelled, and what goes wrong under them; refused before anything is played."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from pytest_isolation.errors import MarkerError
from pytest_isolation.model import Fault

_RAISED = "raised by the fault sweep of pytest-isolation"
_LIBRARIES = ("asyncio", "anyio", "trio")
_TIMEOUTS = ("timeout", "timeout_at", "wait_for", "fail_after", "fail_at", "move_on_after", "move_on_at")


def read_cuts(where: str, cancel: object, faults: object) -> tuple[bool | None, tuple[Fault, ...]]:
    """Whether users are cancelled, and what goes wrong under them.

    Args:
        where: it is said, ``isolation`` or ``isolation.check``.
        cancel: True, False, or None.
        faults: True, False (None is the same), or what is to be raised.

    Raises:
        MarkerError: it is none of that, or an exception cannot be made.
    """
    if cancel is not None and not isinstance(cancel, bool):
        raise MarkerError(f"{where}(cancel={cancel!r}): True cancels users at every suspension point, False nowhere")
    if faults is None or faults is False:
        return cancel, ()
    kinds = (ConnectionResetError, TimeoutError, asyncio.timeout) if faults is True else faults
    if callable(kinds):
        kinds = (kinds,)
    if not isinstance(kinds, list | tuple) or not kinds or not all(map(_is_fault, kinds)):
        raise MarkerError(
            f"{where}(faults={faults!r}): True, or the exceptions that are to be raised, each by its type or by a "
            'function that makes one: faults=[ConnectionResetError, lambda: MyError(1, "x")]; asyncio.timeout or '
            "anyio.fail_after lets the time run out"
        )
    made = [_fault(where, kind) for kind in kinds if not _is_timeout(kind)]
    if any(map(_is_timeout, kinds)):  # whichever way of limiting the time was named: in one sweep any runs out
        made.append(Fault("timeout"))
    return cancel, tuple(_named_apart(made))


def _is_fault(kind: object) -> bool:
    return issubclass(kind, Exception) if isinstance(kind, type) else callable(kind)


def _fault(where: str, kind: Callable[..., object]) -> Fault:
    """One of them is made now: what cannot be made would be raised nowhere, and nobody would know."""
    is_type, name = isinstance(kind, type), getattr(kind, "__name__", repr(kind))
    make: Callable[[], Any] = partial(kind, _RAISED) if is_type else kind
    right = f"faults=[lambda: {name if is_type else 'MyError'}(…)]"
    try:
        error = make()
    except Exception as broken:
        raise MarkerError(
            f"{where}(faults=[{name}]): none can be made ({type(broken).__name__}: {broken}). Say how: {right}"
        ) from broken
    if not isinstance(error, Exception):
        if inspect.iscoroutine(error):
            error.close()  # or Python would complain too
        raise MarkerError(f"{where}(faults=[{name}]): it makes {error!r:.100}, which is no exception: {right}")
    return Fault(type(error).__name__, make)


def _is_timeout(kind: Callable[..., object]) -> bool:
    """One of the ways in which asyncio, anyio and trio limit the time; the latter need not be there."""
    library = getattr(kind, "__module__", "").partition(".")[0]
    return library in _LIBRARIES and getattr(kind, "__name__", "") in _TIMEOUTS


def _named_apart(faults: Iterable[Fault]) -> Iterator[Fault]:
    """A token names a fault, so no two have one name."""
    seen: Counter[str] = Counter()
    for fault in faults:
        seen[fault.name] += 1
        yield fault if seen[fault.name] == 1 else replace(fault, name=f"{fault.name}-{seen[fault.name]}")
