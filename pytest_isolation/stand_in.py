"""Stands in for the body of a test: pytest and its async plugins call this one, and the engine calls the body."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from pytest_isolation.errors import IsolationWarning, MisuseError, NothingMeasured
from pytest_isolation.model import Result
from pytest_isolation.verdicts import Outcome

if TYPE_CHECKING:
    from pytest_isolation.backend import Backend
    from pytest_isolation.engine import Play
    from pytest_isolation.markers import Plan
    from pytest_isolation.settings import Settings

NEVER_RAN = (
    "the body never ran. If it is async, an async plugin must take it: mark it with @pytest.mark.anyio or "
    "@pytest.mark.asyncio, and see that the plugin is installed"
)
_CLOSING_S = 10.0


def stand_in(
    play: Play, body: Callable[..., Any], backend: Backend | None, pooled: object = None
) -> Callable[..., Any]:
    """A function of the same kind as the body, which has the engine play it.

    Args:
        play: what is to be done.
        body: the test function, bound to its instance.
        backend: started before and closed after the body, if it is asynchronous.
        pooled: what lends pools to its users, in whatever way it was made.
    """
    from pytest_isolation.latency.rounds import benchmark_of
    from pytest_isolation.orders import opened, refuse_fresh, refuse_unexplorable

    if inspect.iscoroutinefunction(body):

        @functools.wraps(body)
        async def played(**given: Any) -> None:
            play.given = given
            if play.plan.explore is not None:
                refuse_unexplorable(given, backend)
            async with _serving(backend), opened(given) as now, play.cast.visit(), _followed(backend, play.plan):
                with _watching(play, pooled):
                    await play.perform_async(lambda **other: body(**{**given, **now, **other}))
    else:

        @functools.wraps(body)
        def played(**given: Any) -> None:
            if backend is not None:
                raise MisuseError(
                    "`isolation_backend` is started in the loop of an async test, and this one is sync: make it async"
                )
            refuse_fresh(given)
            with play.cast.visit(), _watching(play, pooled):
                play.perform_sync(lambda **other: body(**{**given, **other}), benchmark_of(given))

    return played


def _watching(play: Play, pooled: object) -> AbstractContextManager[object]:
    """Watch what a backend lends where users play; not where that would be a part of what is timed."""
    if pooled is None or play.plan.budgets or (play.plan.users is None and play.checks is None):
        return nullcontext()
    from pytest_isolation.targets.pools import Watch

    watch = Watch(play.lendings)
    watch.follow(pooled)
    return watch


@asynccontextmanager
async def _serving(backend: Backend | None) -> AsyncIterator[None]:
    """Start the backend in the running loop, and close it there whatever happens."""
    if backend is None:
        yield
        return
    import anyio

    try:
        await backend.start()
        yield
    finally:
        with anyio.move_on_after(_CLOSING_S, shield=True) as patience:
            await backend.aclose()
        if patience.cancelled_caught:
            warnings.warn(
                f"{type(backend).__name__}.aclose() did not end within {_CLOSING_S:g} s and was cancelled",
                IsolationWarning,
                stacklevel=1,
            )


@asynccontextmanager
async def _followed(backend: Backend | None, plan: Plan) -> AsyncIterator[None]:
    """Track what the backend makes for one request alone, if it says so and no latency is judged."""
    tell = getattr(backend, "tell_belongings", None)
    if tell is None or plan.users is None or plan.budgets:
        yield
        return
    from pytest_isolation.users.at_work import AT_WORK

    def hear(thing: object) -> None:
        if (user := AT_WORK.get()) is not None:
            user.track(thing)

    tell(hear)
    try:
        yield
    finally:
        tell(None)


def conclude(play: Play) -> Result:
    """What came of a test whose body ended well.

    Raises:
        NothingMeasured: it would be green without having measured anything.
    """
    if not play.started:
        raise NothingMeasured(NEVER_RAN)
    if play.plan.budgets and not play.findings:
        play.ledger.require_samples()
    if play.growing is not None:
        play.growing.require_weighed()
    play.refuse_unplayed()
    play.judge_users()
    return play.result()


def is_failure(result: Result, settings: Settings) -> bool:
    """Whether a result is to fail its test: on a finding, on a proven violation, in CI mode maybe on doubt."""
    outcomes = {verdict.outcome for verdict in result.verdicts}
    outcomes |= {each.outcome for each in result.comparisons} | {each.outcome for each in result.memory}
    doubt = settings.fails_on_doubt and Outcome.UNDECIDED in outcomes
    return bool(result.findings) or Outcome.FAIL in outcomes or doubt
