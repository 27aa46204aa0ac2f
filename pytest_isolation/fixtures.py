"""The fixtures: plain functions that hand out objects, so that they work under every async plugin and mode."""

from __future__ import annotations

import inspect
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_isolation.errors import BackendError, MisuseError
from pytest_isolation.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from pytest_isolation.backend import Backend, Timings
    from pytest_isolation.engine import Play
    from pytest_isolation.judge import Extensions
    from pytest_isolation.latency.noise import Clock
    from pytest_isolation.latency.paired import Pairs
    from pytest_isolation.latency.spans import Ledger, Span
    from pytest_isolation.model import Comparison, Report
    from pytest_isolation.session_budgets import Session
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
        workers: how many processes of xdist share the machine.
        session: collects what is judged at the end; None if nothing is.
    """

    def __init__(self, settings: Settings, seed: int | None, workers: int = 1, session: Session | None = None) -> None:
        self.settings = settings
        self.seed: int = next(s for s in (settings.seed, seed, secrets.randbelow(10**9)) if s is not None)
        self.takes: Counter[str] = Counter()
        self.workers = workers
        self.session = session

    @cached_property
    def clock(self) -> Clock:
        """What the machine adds to a latency; one for the session, so that it learns what is normal."""
        from pytest_isolation.latency.noise import MachineClock

        return MachineClock()

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

    def listen_to(self, source: TracerProvider | Timings) -> None:
        """Take what a backend times by itself as samples, by its names, until the test ends.

        Args:
            source: a ``TracerProvider`` of the OpenTelemetry SDK (the one that is set globally is heard anyway), or
                an object with ``listen(hear)``, which from then on calls ``hear(name, seconds)``: the reference
                backend's ``metrics``.

        Raises:
            MisuseError: it is neither.
        """
        from pytest_isolation.latency.otel import listen_to

        if callable(getattr(source, "add_span_processor", None)):
            listen_to(cast("TracerProvider", source), self._play.ledger)
        elif callable(getattr(source, "listen", None)):
            self._play.listen_to(cast("Timings", source))
        else:
            raise MisuseError(
                "listen_to() takes a TracerProvider of the OpenTelemetry SDK, or an object with listen(hear), "
                f"not {source!r}"
            )

    async def measure(self, part: Callable[[], Awaitable[object]], span: str | None = None) -> None:
        """Sample a part of an async body until the marker's budgets are decided; the body itself then runs only once.

        Args:
            part: an async function without arguments, called for every sample in a task of its own.
            span: whose budgets it is judged by; None stands for the budgets without a span.

        Raises:
            MisuseError: no budget is on this span, it has been measured before, or the part is not async.
        """
        from pytest_isolation.latency.sampler import sample_async

        _refuse_uncallable(part, "await latency.measure(part)")
        with self._part(span) as own:
            await sample_async(_async_only(part), own, self._play.limits, span)
            await self._play.explain(_async_only(part), own, span)

    def measure_sync(self, part: Callable[[], object], span: str | None = None) -> None:
        """Sample a part of a sync body, as ``measure`` does with an async one.

        Args:
            part: a function without arguments, called for every sample in a copy of the current Context.
            span: whose budgets it is judged by; None stands for the budgets without a span.

        Raises:
            MisuseError: no budget is on this span, or it has been measured before.
        """
        from pytest_isolation.latency.sampler import sample_sync

        _refuse_uncallable(part, "latency.measure_sync(part)")
        with self._part(span) as own:
            sample_sync(part, own, self._play.limits, span)
            self._play.explain_sync(part, own, span)

    async def compare(
        self,
        old: Callable[[], Awaitable[object]],
        new: Callable[[], Awaitable[object]],
        tolerance: float = 0.05,
        name: str = "new",
    ) -> Comparison:
        """Judge whether a new version of something is slower than an old one; the test fails if that is proven.

        They run in turn, new with old, old with new, so that whatever the machine does it does to both.

        Args:
            old: an async function without arguments.
            new: what takes its place.
            tolerance: how much longer it may take, as a share: 0.05 is 5 %.
            name: of what is compared, for the report.

        Raises:
            MisuseError: one of them is not async, or the tolerance is no share.
        """
        from pytest_isolation.latency.comparing import compare_async

        for function in (old, new):
            _refuse_uncallable(function, "await latency.compare(old, new)")
        with self._compared(tolerance, name) as pairs:
            await compare_async(_async_only(old), _async_only(new), pairs, self._play.limits, self._play.clock)
        return self._play.comparisons[-1]

    def compare_sync(
        self, old: Callable[[], object], new: Callable[[], object], tolerance: float = 0.05, name: str = "new"
    ) -> Comparison:
        """The same for functions that are not async."""
        from pytest_isolation.latency.comparing import compare_sync

        for function in (old, new):
            _refuse_uncallable(function, "latency.compare_sync(old, new)")
        with self._compared(tolerance, name) as pairs:
            compare_sync(old, new, pairs, self._play.limits, self._play.clock)
        return self._play.comparisons[-1]

    @contextmanager
    def _compared(self, tolerance: float, name: str) -> Iterator[Pairs]:
        """Pairs to be filled; what they prove counts whatever happens."""
        from pytest_isolation.latency.paired import Pairs

        if self._play.plan.is_judged:
            raise MisuseError("compare() judges by itself: a marker would repeat it. Take @latency or @isolation away")
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 10:
            raise MisuseError(f"a tolerance is a share, as 0.05 for 5 %, not {tolerance!r}")
        pairs = Pairs(float(tolerance))
        try:
            yield pairs
        finally:
            if len(pairs):
                self._play.comparisons.append(pairs.comparison(str(name)))

    @contextmanager
    def _part(self, span: str | None) -> Iterator[Ledger]:
        """The ledger of one part, whose samples count whatever happens."""
        ledger, plan = self._play.ledger, self._play.plan
        if plan.users is not None:
            raise MisuseError("measure() cannot work in an isolation scenario: the crowd repeats its body, not a part")
        if not any(budget.span == span for budget in plan.budgets):
            wanted, others = f"span={span!r}, " if span else "", sorted({b.span for b in plan.budgets if b.span})
            hint = f"; it has budgets on the span {others[0]!r}: measure(part, span={others[0]!r})" if others else ""
            raise MisuseError(f"measure() has no budget to decide: mark the test with latency({wanted}p95_ms=…){hint}")
        if span in ledger.measured:
            which = f"the span {span!r}" if span else "the body"
            raise MisuseError(f"{which} has been measured before; give every part a span of its own")
        own = ledger.part(span)
        try:
            yield own
        finally:
            ledger.adopt(own, span)


def _refuse_uncallable(part: object, form: str) -> None:
    if callable(part):
        return
    if inspect.iscoroutine(part):
        part.close()  # or Python would complain too, and of something else
        raise MisuseError(f"a coroutine can be awaited only once: hand over the function itself, as in {form}")
    raise MisuseError(f"{part!r} cannot be called; hand over a function without arguments, as in {form}")


def _async_only(part: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    """The part itself if it certainly is async; else one that looks at what it returns."""
    if inspect.iscoroutinefunction(part):
        return part

    async def checked() -> object:
        value = part()
        if not inspect.isawaitable(value):
            raise MisuseError("measure() takes an async function; for a sync one there is latency.measure_sync(part)")
        return await value

    return checked


@pytest.fixture
def latency(request: pytest.FixtureRequest) -> Latency:
    """Names what is measured: ``with latency.span("agent.create"):``, ``latency.record(seconds)``."""
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
        refuse_nobody(users, "isolation.check(scenario, users=50)")
        _refuse_uncallable(scenario, "await isolation.check(scenario)")
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
