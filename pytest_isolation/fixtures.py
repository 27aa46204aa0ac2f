"""The fixtures: plain functions that hand out objects, so that they work under every async plugin and mode."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_isolation.errors import BackendError, MisuseError
from pytest_isolation.state import STATE

if TYPE_CHECKING:
    from pytest_isolation.backend import Backend
    from pytest_isolation.engine import Play
    from pytest_isolation.judge import Extensions
    from pytest_isolation.measuring import Latency
    from pytest_isolation.model import Report
    from pytest_isolation.users.cast import User

NAMES = frozenset({"user", "users", "latency", "isolation", "isolation_backend"})
DEFAULT_BACKEND = "reference_impl:create_backend"

PLAY = pytest.StashKey["Play"]()
BACKEND: pytest.StashKey[Backend] = pytest.StashKey()


def play_of(item: pytest.Item) -> Play:
    """The play of a test: made when it is first asked for, and only for this take."""
    if PLAY not in item.stash:
        from pytest_isolation.engine import Play
        from pytest_isolation.markers import read_plan

        state = item.config.stash[STATE]
        plan = read_plan(item, state.settings)
        measures = plan.budgets or state.session or "latency" in getattr(item, "fixturenames", ())
        clock = state.clock if measures else None
        cast, extensions, tell = state.cast(item.nodeid), _extensions(item), _progress(item.config)
        item.stash[PLAY] = Play(plan, state.settings, cast, state.seed, extensions, clock, state.workers, tell)
    return item.stash[PLAY]


def _progress(config: pytest.Config) -> Callable[[str], None] | None:
    """What shows how far a long test has got; None where that would only be noise."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not terminal.isatty or not terminal.showfspath or terminal.verbosity:
        return None
    from pytest_isolation.reports.progress import Progress

    writer = terminal._tw  # past the reporter, which would take it for a part of its line
    progress = Progress(writer._file, lambda: int(writer.fullwidth - writer.width_of_current_line))
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None:
        return progress.tell

    def tell(text: str) -> None:
        with capture.global_and_fixture_disabled():
            progress.tell(text)

    return tell


def _extensions(item: pytest.Item) -> Extensions:
    from pytest_isolation.judge import Extensions

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
    if play.plan.users is None:
        play.bystander = one
    return one


@pytest.fixture
def users(request: pytest.FixtureRequest) -> Callable[[int], list[User]]:
    """Makes several users in one test, judged at its end, as in ``alice, bob = users(2)``."""
    play = play_of(request.node)

    def make(count: int) -> list[User]:
        refuse_nobody(count, "alice, bob = users(2)")
        new = play.cast.users(count)
        play.players += new
        return new

    return make


def refuse_nobody(count: object, form: str) -> None:
    """Refuse what is no number of users.

    Raises:
        MisuseError: it shows the right form.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise MisuseError(f"{count!r} is no number of users: it is a whole number ≥ 1, as in {form}")


@pytest.fixture
def latency(request: pytest.FixtureRequest) -> Latency:
    """Names what is measured: ``with latency.span("agent.create"):``, ``latency.record(seconds)``."""
    from pytest_isolation.measuring import Latency

    return Latency(play_of(request.node))


class Isolation:
    """The engine from code."""

    def __init__(self, item: pytest.Item) -> None:
        from pytest_isolation.engine import Checks

        self._item = item
        self._whole = play_of(item)
        self._checks = self._whole.checks = Checks()

    def check(
        self, scenario: Callable[[User], Awaitable[object]], users: int = 100, fail: bool = True
    ) -> Coroutine[Any, Any, Report]:
        """Let users play a scenario in the running loop: some alone, then all at once, then one alone.

        Args:
            scenario: an async function that takes the user.
            users: how many play at once.
            fail: fail the test on a finding; False returns the report instead.

        Raises:
            MisuseError: there is nobody to play, or nothing.
            NothingMeasured: the scenario observed or planted nothing.
        """
        from pytest_isolation.awaited import refuse_uncallable

        refuse_nobody(users, "isolation.check(scenario, users=50)")
        refuse_uncallable(scenario, "await isolation.check(scenario)")
        self._checks.asked += 1  # counted now: a coroutine that nobody awaits never begins
        return self._check(scenario, users, fail)

    async def _check(self, scenario: Callable[[User], Awaitable[object]], users: int, fail: bool) -> Report:
        import anyio

        from pytest_isolation.model import Report
        from pytest_isolation.reports.terminal import failure_text

        play = self._new_play()

        async def call(user: User) -> object:
            value = scenario(user)
            if not inspect.isawaitable(value):
                raise MisuseError("check() takes an async function: async def scenario(user)")
            return await value

        try:
            await play.follow_async(play.script(self._item.config.stash[STATE].settings.users or users), call)
        except anyio.get_cancelled_exc_class():
            self._checks.cancelled += 1
            raise
        finally:
            self._checks.ended += 1
            play.judge_interrupted()
            play.judge_late()
            self._whole.include(play, findings=fail)
        result = play.result()
        if fail and result.findings:
            pytest.fail(failure_text(result), pytrace=False)
        return Report(result.findings, result.phases)

    def _new_play(self) -> Play:
        from pytest_isolation.engine import Play
        from pytest_isolation.markers import Plan, command

        item, state = self._item, self._item.config.stash[STATE]
        plan = Plan(item.nodeid, command(item))
        return Play(plan, state.settings, state.cast(item.nodeid), state.seed, _extensions(item))


@pytest.fixture
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """The engine from code: ``report = await isolation.check(scenario, users=50)``."""
    return Isolation(request.node)


@pytest.fixture
def isolation_backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The backend under test: the reference backend, or ``--isolation-backend=MODULE:FACTORY``.

    It is started before the body of an async test runs and closed after it, in the loop of the test; a fixture that
    takes it gets it before it has been started.
    """
    from pytest_isolation.backend import find_factory, make_backend

    target, said = request.config.stash[STATE].settings.backend or DEFAULT_BACKEND, ""
    try:
        backend = make_backend(find_factory(target), target)
    except BackendError as error:
        said = str(error)
    if said:  # outside of the except clause: where it was raised in this plugin explains nothing
        pytest.fail(f"pytest-isolation: {said}", pytrace=False)
    request.node.stash[BACKEND] = backend
    yield backend
    del request.node.stash[BACKEND]
