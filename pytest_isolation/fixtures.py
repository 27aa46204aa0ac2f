"""The fixtures: plain functions that hand out objects, so that they work under every async plugin and mode."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_isolation.errors import MisuseError
from pytest_isolation.settings import Settings

if TYPE_CHECKING:
    from pytest_isolation.backend import Backend
    from pytest_isolation.engine import Extensions, Play
    from pytest_isolation.latency.spans import Span
    from pytest_isolation.model import Report
    from pytest_isolation.users.cast import Cast, User

NAMES = frozenset({"user", "users", "latency", "isolation", "isolation_backend"})
DEFAULT_BACKEND = "reference_impl:create_backend"


class State:
    """What one pytest session knows.

    Args:
        settings: what was asked for.
        seed: for a session that was not given one; None picks one.

    Attributes:
        settings: what was asked for.
        seed: determines every canary.
        takes: how often each test has been played, so that a repeated one gets canaries of its own.
    """

    def __init__(self, settings: Settings, seed: int | None) -> None:
        self.settings = settings
        self.seed: int = next(s for s in (settings.seed, seed, secrets.randbelow(10**9)) if s is not None)
        self.takes: Counter[str] = Counter()

    def cast(self, nodeid: str) -> Cast:
        """New users for one more take of a test."""
        from pytest_isolation.users.cast import Cast

        self.takes[nodeid] += 1
        return Cast(self.seed, nodeid, self.takes[nodeid])


STATE = pytest.StashKey[State]()
PLAY = pytest.StashKey["Play"]()
BACKEND: pytest.StashKey[Backend] = pytest.StashKey()


def play_of(item: pytest.Item) -> Play:
    """The play of a test: made when it is first asked for, and only for this take."""
    if PLAY not in item.stash:
        from pytest_isolation.engine import Play
        from pytest_isolation.markers import read_plan

        state = item.config.stash[STATE]
        item.stash[PLAY] = Play(
            read_plan(item, state.settings), state.settings, state.cast(item.nodeid), state.seed, _extensions(item)
        )
    return item.stash[PLAY]


def _extensions(item: pytest.Item) -> Extensions:
    from pytest_isolation.engine import Extensions

    hook = item.ihook
    oracles = tuple(oracle for some in hook.pytest_isolation_oracles() for oracle in some or ())
    return Extensions(
        oracles=oracles,
        normalise=(lambda seen: hook.pytest_isolation_normalise(observation=seen) or seen)
        if hook.pytest_isolation_normalise.get_hookimpls()
        else None,
        allow=lambda finding: hook.pytest_isolation_allow(finding=finding),
    )


@pytest.fixture
def user(request: pytest.FixtureRequest) -> User:
    """The user whom this run of the scenario plays."""
    play = play_of(request.node)
    # In a scenario every run is given a user of its own; this one only stands in the signature.
    [one] = play.cast.users(1, "user" if play.plan.users is None else "nobody")
    return one


@pytest.fixture
def users(request: pytest.FixtureRequest) -> Callable[[int], list[User]]:
    """Makes several users in one test, judged at its end, as in ``alice, bob = users(2)``."""
    play = play_of(request.node)

    def make(count: int) -> list[User]:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise MisuseError(f"users({count!r}): it takes how many, as in alice, bob = users(2)")
        new = play.cast.users(count)
        play.players += new
        return new

    return make


class Latency:
    """What is to be measured in a test."""

    def __init__(self, play: Play) -> None:
        from pytest_isolation.latency.spans import Recorder

        self._play = play
        self._recorder = Recorder(play.ledger)

    def span(self, name: str) -> Span:
        """A named part, timed from entry to exit; for ``with`` and ``async with``.

        Args:
            name: what the marker calls it: ``@pytest.mark.latency(span="agent.create", p95_ms=10)``.
        """
        return self._recorder.span(name)

    def record(self, seconds: float, span: str | None = None) -> None:
        """Take a latency that was measured elsewhere.

        Args:
            seconds: how long it took.
            span: of which named part; None stands for the body, whose own time is then not taken.
        """
        self._recorder.record(seconds, span)

    async def measure(self, part: Callable[[], Awaitable[object]], span: str | None = None) -> None:
        """Sample a part of the body until the marker's budgets are decided; the body itself then runs only once.

        Args:
            part: an async function without arguments, called for every sample in a task of its own.
            span: whose budgets it is judged by; None stands for the budgets without a span.
        """
        from pytest_isolation.latency.sampler import sample_async

        play = self._play
        if play.ledger.measured is False and not any(b.span == span for b in play.plan.budgets):
            wanted = f"span={span!r}, " if span else ""
            raise MisuseError(f"measure() has no budget to decide: mark the test with latency({wanted}p95_ms=…)")
        own = play.ledger.part(span)
        try:
            await sample_async(part, own, play.limits)
        finally:
            play.ledger.adopt(own, span)


@pytest.fixture
def latency(request: pytest.FixtureRequest) -> Latency:
    """Names what is measured: ``with latency.span("agent.create"):``, ``latency.record(seconds)``."""
    return Latency(play_of(request.node))


class Isolation:
    """The engine from code."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    async def check(self, scenario: Callable[[User], Awaitable[object]], users: int = 100, fail: bool = True) -> Report:
        """Let users play a scenario in the running loop: two alone, then all at once.

        Args:
            scenario: an async function that takes the user.
            users: how many play at once.
            fail: fail the test on a finding; False returns the report instead.

        Raises:
            NothingMeasured: the scenario observed or planted nothing.
        """
        from pytest_isolation.engine import Play
        from pytest_isolation.markers import Plan, command
        from pytest_isolation.model import Report
        from pytest_isolation.reports.terminal import failure_text

        item, state = self._item, self._item.config.stash[STATE]
        plan = Plan(item.nodeid, command(item))
        play = Play(plan, state.settings, state.cast(item.nodeid), state.seed, _extensions(item))

        async def call(user: User) -> object:
            return await scenario(user)

        await play.follow_async(play.script(state.settings.users or users), call)
        result = play.result()
        play_of(item).include(play, findings=fail)
        if fail and result.findings:
            pytest.fail(failure_text(result), pytrace=False)
        return Report(result.findings, result.phases)


@pytest.fixture
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """The engine from code: ``report = await isolation.check(scenario, users=50)``."""
    return Isolation(request.node)


@pytest.fixture
def isolation_backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The backend under test: the reference backend, or ``--isolation-backend=MODULE:FACTORY``.

    In an async test it is started before the body runs and closed after it, in the loop of the test.
    """
    from pytest_isolation.backend import find_factory, make_backend

    target = request.config.stash[STATE].settings.backend or DEFAULT_BACKEND
    backend = make_backend(find_factory(target), target)
    request.node.stash[BACKEND] = backend
    yield backend
    del request.node.stash[BACKEND]
