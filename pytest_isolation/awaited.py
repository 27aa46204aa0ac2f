"""Refuses what does no work: coroutines that nobody awaits, what is no function, and a crowd of nobody."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_isolation.errors import MisuseError, NothingMeasured

_MESSAGE = r"coroutine '.*' was never awaited"


@contextmanager
def refuse_unawaited() -> Iterator[None]:
    """Let a body run, and refuse it if it dropped a coroutine without awaiting it.

    Python says so with a warning at the moment when the coroutine dies. Filters are global to the process, so this is
    for a first run that is alone, not for a crowd.

    Raises:
        NothingMeasured: it names the coroutine.
    """
    with warnings.catch_warnings(record=True) as seen:
        warnings.filterwarnings("always", message=_MESSAGE, category=RuntimeWarning)
        yield
    for warning in seen:
        text = str(warning.message)
        if issubclass(warning.category, RuntimeWarning) and "was never awaited" in text:
            raise NothingMeasured(f"{text}: the work it stands for was not done, so there is nothing to judge")
    for warning in seen:
        warnings.warn_explicit(
            warning.message, warning.category, warning.filename, warning.lineno, source=warning.source
        )


def refuse_awaitable(value: object) -> None:
    """Refuse a body that handed back a coroutine instead of doing the work.

    Raises:
        NothingMeasured: the value still has to be awaited.
    """
    if inspect.isawaitable(value):
        name = getattr(value, "__qualname__", type(value).__name__)
        if inspect.iscoroutine(value):
            value.close()
        raise NothingMeasured(
            f"the body returned {name!r} without awaiting it: nothing of it was run. Make the test async and await it"
        )


def refuse_uncallable(part: object, form: str) -> None:
    """Refuse what is no function, above all a coroutine that was already made.

    Args:
        part: what was handed over.
        form: the right form, for the message.

    Raises:
        MisuseError: it shows the right form.
    """
    if callable(part):
        return
    if inspect.iscoroutine(part):
        part.close()  # or Python would complain too, and of something else
        raise MisuseError(f"a coroutine can be awaited only once: hand over the function itself, as in {form}")
    raise MisuseError(f"{part!r} cannot be called; hand over a function without arguments, as in {form}")


def refuse_nobody(count: object, form: str) -> None:
    """Refuse what is no number of users.

    Raises:
        MisuseError: it shows the right form.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise MisuseError(f"{count!r} is no number of users: it is a whole number ≥ 1, as in {form}")
