"""The fixtures: plain functions that hand out objects, so that they work under every async plugin and mode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_isolation.errors import MisuseError, NothingMeasured
from pytest_isolation.state import STATE

if TYPE_CHECKING:
    from pytest_isolation.backend import Backend
    from pytest_isolation.engine import Play
    from pytest_isolation.from_code import Isolation
    from pytest_isolation.judge import Extensions
    from pytest_isolation.markers import Plan
    from pytest_isolation.measuring import Latency
    from pytest_isolation.targets.pools import Watch
    from pytest_isolation.users.cast import Target, User
    from pytest_isolation.weighing import Memory

NAMES = frozenset(
    {
        *("user", "users", "latency", "memory", "isolation"),
        *("isolation_app", "isolation_backend", "isolation_login", "isolation_proxy"),
        *("isolation_engine", "isolation_watch"),
    }
)
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
        item.stash[PLAY] = Play(
            plan,
            state.settings,
            cast,
            state.seed,
            extensions,
            clock,
            state.workers,
            tell,
            state.revision,
            state.beside,
        )
        cast.tracked.roots = _roots(item)
    return item.stash[PLAY]


def play_apart(item: pytest.Item, plan: Plan | None = None, part: int | None = None) -> Play:
    """Another play within a test, with users of its own, that does what it is told and not what markers say.

    Args:
        item: the test.
        plan: what it is told; None is nothing.
        part: which of several checks of the test this is.
    """
    from pytest_isolation.engine import Play
    from pytest_isolation.markers import Plan, command

    state = item.config.stash[STATE]
    # Of one check they are the same whatever the others of the test have played.
    name = item.nodeid if part is None else f"{item.nodeid}/{part}"
    plan, cast = plan or Plan(item.nodeid, command(item)), state.cast(name)
    cast.tracked.roots = _roots(item)
    return Play(plan, state.settings, cast, state.seed, _extensions(item), part=part)


def refuse_unused(item: pytest.Function, play: Play) -> None:
    """Refuse a test that takes `users` or `latency` itself, and would be green without having used them.

    Args:
        item: the test, whose body has ended well.
        play: of the test; where its markers have something judged, that was measured.

    Raises:
        NothingMeasured: it says how to use the fixture.
    """
    if play.plan.is_judged:
        return
    took = {name for name in inspect.signature(item.function).parameters if _is_ours(item, name)}
    if "users" in took and not play.offstage.players:
        raise NothingMeasured("the test takes `users`, and never called it: alice, bob = users(2)")
    ledger = play.ledger
    if "latency" in took and not (any(ledger.samples.values()) or ledger.raised or play.sampling.comparisons):
        raise NothingMeasured(
            "the test takes `latency`, and nothing was measured with it: with latency.span('agent.create'): …"
        )


def _is_ours(item: pytest.Function, name: str) -> bool:
    """A fixture of a test is this plugin's, and not one of the test suite's that is called the same."""
    from pytest_isolation.markers import fixture_definitions

    definitions = fixture_definitions(item).get(name)
    return definitions is not None and definitions[-1].func.__module__ == __name__


def _roots(item: pytest.Item) -> Mapping[str, object]:
    """What lives for as long as the test does: its fixtures, and the object whose method it is."""
    roots = {"fixture": getattr(item, "funcargs", None), "the test's own object": getattr(item, "instance", None)}
    return {name: one for name, one in roots.items() if one is not None}


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
        keepers=item.config.stash[STATE].settings.heap_allow,
    )


@pytest.fixture
def isolation_app(request: pytest.FixtureRequest) -> Any:
    """The application that users talk to: override it in ``conftest.py``.

    It returns an ASGI or a WSGI application, ``"pkg.mod:app"``, a command (a list in which ``{port}`` is filled in) or
    a URL. It is served when a user first takes ``user.http`` or ``user.websocket()``, until the test has ended.
    """
    from pytest_isolation.targets.clients import HOW, NoApp

    if "isolation_app" in inspect.signature(request.function).parameters:
        pytest.fail(f"pytest-isolation: {HOW}", pytrace=False)
    return NoApp()


@pytest.fixture
def isolation_login() -> Any:
    """What every user of a scenario does first that is not anonymous: override it in ``conftest.py``.

    It returns ``async def login(user, client)``, for sync tests a plain function; the client is ``user.http``.
    """
    return None


@pytest.fixture
def isolation_proxy() -> Any:
    """What stands between users and the application: override it in ``conftest.py``.

    It returns ``pytest_isolation.Proxy(connections=2)``: users share few connections, as behind nginx or a load
    balancer; with ``pipeline=True`` requests are sent without waiting for answers, with ``cache=True`` answers are kept
    for all. Requests of ``user.http`` go through it.
    """
    return None


@pytest.fixture(name="_isolation_target")
def isolation_target(
    request: pytest.FixtureRequest, isolation_app: Any, isolation_login: Any, isolation_proxy: Any
) -> Iterator[Target]:
    """The clients of all users of a test, and the application that they reach."""
    from pytest_isolation.targets.clients import Clients

    with _refused_plainly():
        allow_remote = request.config.stash[STATE].settings.allow_remote
        clients = Clients(isolation_app, allow_remote, isolation_login, isolation_proxy)
    yield clients
    with _refused_plainly():
        clients.close()


@pytest.fixture
def isolation_engine() -> Any:
    """The SQLAlchemy engine that is watched, or a list of them: override it in ``conftest.py``.

    Sync or async, on PostgreSQL or SQLite. What one user leaves in a connection, and the next one meets, is a finding.
    """
    return None


@pytest.fixture
def isolation_watch(request: pytest.FixtureRequest, isolation_engine: Any) -> Iterator[Watch]:
    """Watches a pool until the test has ended: ``isolation_watch(pool)``, ``isolation_watch.recorder("name")``."""
    from pytest_isolation.targets.pools import Watch

    with Watch(play_of(request.node).lendings) as watch, _refused_plainly():
        for engine in isolation_engine if isinstance(isolation_engine, list | tuple) else [isolation_engine]:
            if engine is not None:
                watch(engine)
        yield watch


@pytest.fixture(name="_isolation_engines")
def isolation_engines(request: pytest.FixtureRequest, isolation_engine: Any) -> None:
    """Engines that are handed over are watched in every test that has users."""
    if isolation_engine is not None:
        request.getfixturevalue("isolation_watch")


@contextmanager
def _refused_plainly() -> Iterator[None]:
    """Show a misuse without where it was raised in this plugin, which explains nothing."""
    said = ""
    try:
        yield
    except MisuseError as error:
        said = str(error)
    if said:
        pytest.fail(f"pytest-isolation: {said}", pytrace=False)


@pytest.fixture
def user(request: pytest.FixtureRequest, _isolation_target: Target, _isolation_engines: None) -> User:
    """The user whom this run of the scenario plays."""
    play = play_of(request.node)
    play.cast.target = _isolation_target
    # In a scenario every run is given a user of its own; this one only stands in the signature.
    [one] = play.cast.users(1, "user" if play.plan.users is None else "nobody")
    if play.plan.users is None:
        play.offstage.bystander = one
    return one


@pytest.fixture
def users(
    request: pytest.FixtureRequest, _isolation_target: Target, _isolation_engines: None
) -> Callable[[int], list[User]]:
    """Makes several users in one test, judged at its end, as in ``alice, bob = users(2)``."""
    from pytest_isolation.awaited import refuse_nobody

    play = play_of(request.node)
    play.cast.target = _isolation_target

    def make(count: int) -> list[User]:

        refuse_nobody(count, "alice, bob = users(2)")
        new = play.cast.users(count)
        play.offstage.players += new
        return new

    return make


@pytest.fixture
def latency(request: pytest.FixtureRequest) -> Latency:
    """Names what is measured: ``with latency.span("agent.create"):``, ``latency.record(seconds)``."""
    from pytest_isolation.measuring import Latency

    return Latency(play_of(request.node))


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Memory:
    """Weighs objects: ``memory.weigh(request, shared=[backend])``."""
    from pytest_isolation.weighing import Memory

    return Memory(play_of(request.node))


@pytest.fixture
def isolation(request: pytest.FixtureRequest, _isolation_target: Target, _isolation_engines: None) -> Isolation:
    """The engine from code: ``report = await isolation.check(scenario, users=50)``."""
    from pytest_isolation.from_code import Isolation

    item = request.node
    return Isolation(item, play_of(item), lambda plan, part: play_apart(item, plan, part), _isolation_target)


@pytest.fixture(name="_isolation_factory")
def isolation_factory(request: pytest.FixtureRequest) -> Callable[[], Backend]:
    """Makes the backend under test, as often as it is asked."""
    from pytest_isolation.backend import find_factory, make_backend

    target = request.config.stash[STATE].settings.backend or DEFAULT_BACKEND

    @_refused_plainly()
    def make() -> Backend:
        return make_backend(find_factory(target), target)

    return make


@pytest.fixture
def isolation_backend(request: pytest.FixtureRequest, _isolation_factory: Callable[[], Backend]) -> Iterator[Any]:
    """The backend under test: the reference backend, or ``--isolation-backend=MODULE:FACTORY``.

    It is started before the body of an async test runs and closed after it, in the loop of the test; a fixture that
    takes it gets it before it has been started.
    """
    backend = _isolation_factory()
    request.node.stash[BACKEND] = backend
    yield backend
    del request.node.stash[BACKEND]
