"""What cannot be explored, refused before anything is played: with what is wrong, and the right form."""

from __future__ import annotations

from typing import Any

from pytest_isolation.awaited import refuse_nobody, refuse_uncallable
from pytest_isolation.errors import MisuseError
from pytest_isolation.fresh import Fresh
from pytest_isolation.loops import in_async_code, uncontrollable
from pytest_isolation.phases.token import MOST_EXPLORED

_LIBRARIES = ("asyncio", "trio")


def refuse_unexplorable(
    open_backend: object, scenario: object, users: object, deviations: object, seconds: object, on: object = "asyncio"
) -> None:
    """Refuse a search that has nobody to play, nothing, or no way to play it.

    Raises:
        MisuseError: it shows the right form.
    """
    form = "isolation.explore(open_backend, scenario, users=3, deviations=1)"
    if in_async_code():
        raise MisuseError(
            f"explore() has a loop of its own, so it belongs into a sync test: def test_it(isolation): {form}"
        )
    refuse_nobody(users, form)
    if isinstance(users, int) and users > MOST_EXPLORED:
        raise MisuseError(
            f"users={users}: at most {MOST_EXPLORED} users can be explored, and three show what a crowd does not: "
            f"{form}"
        )
    if isinstance(open_backend, Fresh):
        raise MisuseError("Fresh is for fixtures: hand over what makes a backend, explore(shop.open_backend, scenario)")
    refuse_uncallable(open_backend, form)
    refuse_uncallable(scenario, form)
    if isinstance(deviations, bool) or not isinstance(deviations, int) or deviations < 0:
        raise MisuseError(f"{deviations!r} is no number of deviations: it is a whole number ≥ 0, as in {form}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise MisuseError(f"{seconds!r} is no time: it is a number of seconds > 0, as in explore(…, seconds=5)")
    if on not in _LIBRARIES:
        raise MisuseError(f"on={on!r}: orders can be decided on asyncio and on trio, as in explore(…, on='trio')")


def refuse_unclear(form: str, **choices: object) -> None:
    """Refuse what is neither yes nor no.

    Args:
        form: of the call.
        choices: what was handed over, by name.

    Raises:
        MisuseError: it shows the right form.
    """
    for name, value in choices.items():
        if not isinstance(value, bool):
            raise MisuseError(f"{name}={value!r}: it is True or False, as in {form}({name}=True)")


def refuse_uncontrollable(item: Any) -> None:
    """Refuse to explore where tests run on a loop in C, by its policy or as pytest-asyncio was told.

    Args:
        item: the test.

    Raises:
        MisuseError: it says which loop that is.
    """
    makers: list[object] = []
    if (hook := getattr(item.config.hook, "pytest_asyncio_loop_factories", None)) is not None:
        told = hook(config=item.config, item=item)
        for factories in told if isinstance(told, list) else [told]:
            makers += (factories or {}).values()
    request = getattr(item, "_request", None)
    definitions = item.session._fixturemanager.getfixturedefs("event_loop_policy", item) or ()
    if request is not None and definitions and not definitions[-1].func.__module__.startswith("pytest_asyncio"):
        makers.append(request.getfixturevalue("event_loop_policy"))
    if (reason := uncontrollable(*makers)) is not None:
        raise MisuseError(reason)
