"""What ``@pytest.mark.isolation(explore=1)`` adds to a test: its body in every order, each on a backend of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from pytest_isolation.errors import MisuseError
from pytest_isolation.fresh import Fresh
from pytest_isolation.loops import on_asyncio, uncontrollable

if TYPE_CHECKING:
    from pytest_isolation.backend import Backend
    from pytest_isolation.engine import Play
    from pytest_isolation.settings import Settings
    from pytest_isolation.users.cast import User

# Three find what two cannot, and more find hardly anything else (what is exhausted grows with every one of them).
_USERS, _SECONDS, _MORE = 3, 5.0, 10


def refuse_unexplorable(given: Mapping[str, Any], backend: Backend | None) -> None:
    """Refuse a test of which no order could be played on a backend of its own.

    Args:
        given: what the fixtures gave to the body.
        backend: the value of ``isolation_backend``.

    Raises:
        MisuseError: it shows the way out.
    """
    if not on_asyncio():
        raise MisuseError(
            "explore=… has an event loop of asyncio whose order is ours, and this test runs on trio: let it run on "
            "asyncio, or leave explore=… out"
        )
    if (reason := uncontrollable(asyncio.get_running_loop())) is not None:
        raise MisuseError(reason)
    takes_backend = backend is not None and given.get("isolation_backend") is backend
    if not takes_backend and not any(isinstance(value, Fresh) for value in given.values()):
        raise MisuseError(
            "explore=… plays every order on a backend that is new, and no fixture of this test says how one is made: "
            "let one return pytest_isolation.Fresh(open_shop), or take isolation_backend"
        )


def refuse_fresh(given: Mapping[str, Any]) -> None:
    """Refuse ``Fresh`` in a sync test.

    Raises:
        MisuseError: there is one.
    """
    for name, value in given.items():
        if isinstance(value, Fresh):
            raise MisuseError(
                f"`{name}` is made in the loop of an async test (Fresh), and this one is sync: make it async"
            )


@asynccontextmanager
async def opened(given: Mapping[str, Any], backend: Backend | None = None) -> AsyncIterator[dict[str, Any]]:
    """Make whatever fixtures only said how to make, in the running loop.

    Args:
        given: what the fixtures gave to the body.
        backend: one that is to be started too.

    Yields:
        What was made, by the names of the fixtures.
    """
    fresh = {name: value for name, value in given.items() if isinstance(value, Fresh)}
    if not fresh and backend is None:
        yield {}
        return
    from pytest_isolation.phases.exploration import open_fresh

    async with AsyncExitStack() as stack:
        made = {name: await open_fresh(one.open_backend, stack) for name, one in fresh.items()}
        if backend is not None:
            stack.push_async_callback(backend.aclose)
            await backend.start()
            made["isolation_backend"] = backend
        yield made


def explore_orders(
    play: Play, apart: Play, body: Callable[..., Any], settings: Settings, backend: Backend | None
) -> None:
    """Play the body of a test in every order that its marker asks for, after its other phases have found nothing.

    Args:
        play: of the test.
        apart: has users of its own, so that a replay without the other phases has the same.
        body: the test function.
        settings: how a backend is made, and how much time there is.
        backend: the value of ``isolation_backend`` in the other phases; None if the test does not take it.
    """
    from pytest_isolation.exploring import Search
    from pytest_isolation.phases.exploration import Stagecraft, Used

    given, used = play.given, Used()
    takes_backend = backend is not None and given.get("isolation_backend") is backend

    @asynccontextmanager
    async def open_all() -> AsyncIterator[dict[str, Any]]:
        async with opened(given, _another(settings) if takes_backend else None) as made:
            for value in made.values():
                used.refuse(value)
            yield made

    def scenario(user: User, made: Mapping[str, Any]) -> Awaitable[object]:
        return cast("Awaitable[object]", body(**{**given, **made, "user": user}))

    assert play.plan.explore is not None
    assert play.plan.users is not None
    seconds = settings.max_seconds or _SECONDS
    search = Search(
        Stagecraft(open_all, scenario),
        users=min(_USERS, play.plan.users),
        deviations=play.plan.explore,
        seconds=seconds,
        cancel=play.plan.cancel is not False,
        longer=f"--isolation-max-seconds={_MORE * seconds:g}",
        inline="isolation.explore(…, inline_threads=True), from a sync test, has an order for them too",
    )
    try:
        apart.explore(search)
    finally:
        play.include(apart, findings=True)


def _another(settings: Settings) -> Backend:
    from pytest_isolation.backend import find_factory, make_backend
    from pytest_isolation.fixtures import DEFAULT_BACKEND

    target = settings.backend or DEFAULT_BACKEND
    return make_backend(find_factory(target), target)
