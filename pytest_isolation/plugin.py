"""The pytest hooks, and nothing else: each hands over at once to the room that does the work.

Only the standard library, pytest and small modules are imported here; the rest when a marked test is met.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_isolation import fixtures, hookspecs
from pytest_isolation import settings as options
from pytest_isolation.collected import COLLECTED, Collected
from pytest_isolation.errors import IsolationError, MarkerError, MisuseError, PluginFault, SettingError
from pytest_isolation.fixtures import (
    isolation,
    isolation_app,
    isolation_backend,
    isolation_engine,
    isolation_engines,
    isolation_factory,
    isolation_login,
    isolation_proxy,
    isolation_target,
    isolation_watch,
    latency,
    memory,
    user,
    users,
)
from pytest_isolation.state import STATE, State

if TYPE_CHECKING:
    from pytest_isolation.engine import Play
    from pytest_isolation.model import Result
    from pytest_isolation.revision.process import Revision

__all__ = [
    "isolation",
    "isolation_app",
    "isolation_backend",
    "isolation_engine",
    "isolation_engines",
    "isolation_factory",
    "isolation_login",
    "isolation_proxy",
    "isolation_target",
    "isolation_watch",
    "latency",
    "memory",
    "user",
    "users",
]

MARKERS = {
    "latency": "latency(p50_ms, p95_ms, p99_ms, max_ms, span, concurrency, rate, users): the test's body (or a span of "
    "it) keeps these budgets, p90_ms, p999_ms and any other quantile likewise; it is run until they are decided, with "
    "so many runs in flight at once (concurrency), or as they arrive (rate a second, of each of so many users).",
    "isolation": "isolation(users, anonymous, cancel, faults, explore, heap): the test's body is what one user does; "
    "many users play it at once, a share of them without credentials (anonymous), and nothing of one may reach another "
    "or stay behind (user.track, heap), also where users are cancelled (cancel) or fail (faults) at every suspension "
    "point, and in other orders (explore). Needs the `user` fixture.",
    "memory": "memory(growth_kb=10, peak_mb=65, per_object_kb=5): the test's body is run until it is known whether it "
    "holds more and more, and how much at once.",
}
RESULT = pytest.StashKey["Result"]()
SPANS = pytest.StashKey[dict[str, Any]]()
SAMPLES = pytest.StashKey[dict[str, list[float]]]()
PLAYED = pytest.StashKey["Play"]()
MISTAKE = pytest.StashKey[str]()
_BESIDE = "ISOLATION_BESIDE"  # set by revision.process for the process of an earlier revision


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    for description in MARKERS.values():
        config.addinivalue_line("markers", description)
    try:
        config.stash[STATE] = _state(config)
    except MisuseError as error:
        raise pytest.UsageError(f"pytest-isolation: {error}") from error
    config.stash[COLLECTED] = Collected(config)
    config.pluginmanager.register(config.stash[COLLECTED], "pytest_isolation.collected")


def _state(config: pytest.Config) -> State:
    settings = options.read_settings(config)
    if settings.replay is not None:
        from pytest_isolation.phases.token import parse

        token = parse(settings.replay)
        settings = replace(settings, users=token.users or settings.users, seed=token.seed)
    if settings.backend is not None:
        from pytest_isolation.backend import find_factory, make_backend

        # As uvicorn and gunicorn do: a module is looked for where the command was typed.
        sys.path.insert(0, str(config.invocation_params.dir))
        make_backend(find_factory(settings.backend), settings.backend)
    beside, revision = None, None
    if _BESIDE in os.environ:
        from pytest_isolation.revision.beside import join

        beside = join(config)
        settings = replace(settings, budget=False, report=(), save=None, compare=None, compare_rev=None)
    if settings.compare_rev is not None:
        revision = _revision(config, settings.compare_rev)
    for path in settings.report:
        if path.is_dir():
            raise SettingError(f"--isolation-report={path} is a folder; name a file in it: {path / 'isolation.json'}")
    worker, session = getattr(config, "workerinput", {}), None
    workers = worker.get("workercount", 1)
    if settings.budgets:
        from pytest_isolation.session_budgets import Session, read_budgets

        budgets = read_budgets(settings.budgets)  # a mistake is one without CI mode too
        session = Session(budgets, workers) if settings.budget else None
    baseline = None
    if settings.save or settings.compare:
        from pytest_isolation.session_baseline import Baseline

        baseline = Baseline(config.rootpath, settings.save, settings.compare)
    return State(settings, worker.get("isolation_seed"), workers, session, baseline, revision, beside)


def _revision(config: pytest.Config, name: str) -> Revision:
    from pytest_isolation.revision.process import Revision, carried

    if config.getoption("numprocesses", default=None) or hasattr(config, "workerinput"):
        raise SettingError(
            "--isolation-compare-rev: two versions run in turn, and with -n others run beside; take -n 0"
        )
    params = config.invocation_params
    revision = Revision(name, config.rootpath, params.dir, carried(params.args, config.option.file_or_dir))
    config.add_cleanup(revision.close)
    return revision


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """An xdist worker plays with the seed of its controller."""
    node.workerinput["isolation_seed"] = node.config.stash[STATE].seed


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    settings = config.stash[STATE].settings
    marked = [item for item in items if _is_marked(item)]
    wrong = {item: f"pytest-isolation: {item.nodeid}: {said}" for item in marked if (said := _mistake(item, settings))}
    if wrong and not hasattr(config, "workerinput"):
        raise pytest.UsageError("\n".join(wrong.values()))
    for item, message in wrong.items():  # a worker of xdist cannot end the run; its tests can fail
        item.stash[MISTAKE] = message


def _mistake(item: pytest.Item, settings: options.Settings) -> str:
    from pytest_isolation.markers import read_plan
    from pytest_isolation.unsupported import refuse_unsupported

    try:
        refuse_unsupported(read_plan(item, settings), settings)
    except MarkerError as error:
        return str(error)
    return ""


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    if any(not fixtures.NAMES.isdisjoint(_fixtures(item)) or _is_marked(item) for item in session.items):
        session.config.pluginmanager.register(Playing(), "pytest_isolation.playing")
    state = session.config.stash[STATE]
    if state.revision is not None:
        from pytest_isolation.markers import read_plan

        state.revision.want(i.nodeid for i in session.items if read_plan(i, state.settings).is_comparable)


def _is_marked(item: pytest.Item) -> bool:
    return any(mark.name in MARKERS for mark in item.iter_markers())


def _fixtures(item: pytest.Item) -> Iterable[str]:
    return getattr(item, "fixturenames", ())


class Playing:
    """The hooks around each test; registered only in a session that has a test for them."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if MISTAKE in item.stash:
            pytest.fail(item.stash[MISTAKE], pytrace=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        # A fixture called `user` is often the test suite's own; ours has left its mark.
        ours = fixtures.PLAY in item.stash or fixtures.BACKEND in item.stash or _is_marked(item)
        if ours and isinstance(item, pytest.Function):
            return (yield from _play(item))
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        from pytest_isolation.users.tracked import let_collect

        try:
            yield
        finally:
            let_collect()
        play = item.stash.get(PLAYED, None)
        if play is not None:
            del item.stash[PLAYED]
            _fail_if_late(play)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "call" and PLAYED in item.stash:
            report.sections += _hint(call)
        if call.when == "call" and RESULT in item.stash:
            from pytest_isolation.reports.json import encode

            report.isolation = encode(item.stash[RESULT])  # type: ignore[attr-defined] # reaches a controller of xdist
            del item.stash[RESULT]
            _shorten(report, call)
        if call.when == "call" and SPANS in item.stash:
            report.isolation_spans = item.stash[SPANS]  # type: ignore[attr-defined]
            del item.stash[SPANS]
        if call.when == "call" and SAMPLES in item.stash:
            report.isolation_samples = item.stash[SAMPLES]  # type: ignore[attr-defined]
            del item.stash[SAMPLES]
        return report


def _shorten(report: pytest.TestReport, call: pytest.CallInfo[None]) -> None:
    """Leave the first line of a failure to pytest's summary, which on CI would repeat the whole text."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and isinstance(getattr(call.excinfo, "value", None), pytest.fail.Exception):
        crash.message = crash.message.split("\n")[0]


def _hint(call: pytest.CallInfo[None]) -> list[tuple[str, str]]:
    """What to say beside the text with which pytest ≥ 8.4 fails an async test that no plugin took."""
    from pytest_isolation.stand_in import NEVER_RAN

    said = "" if call.excinfo is None else str(call.excinfo.value)
    return [("pytest-isolation", NEVER_RAN)] if "async def functions are not natively supported" in said else []


def _play(item: pytest.Function) -> Generator[None, object, object]:
    """Let the engine play a test in the place of its body, and judge what came of it."""
    from pytest_isolation.orders import explore_orders
    from pytest_isolation.stand_in import conclude, stand_in

    play, body, said = fixtures.play_of(item), item.obj, ""
    backend, pooled = item.stash.get(fixtures.BACKEND, None), item.funcargs.get("isolation_backend")
    item.obj = stand_in(play, body, backend, pooled)
    try:
        outcome = yield
        if play.explores:
            apart = fixtures.play_apart(item)
            explore_orders(play, apart, body, item.config.stash[STATE].settings, item.stash.get(fixtures.BACKEND, None))
        result = conclude(play)
        fixtures.refuse_unused(item, play)
    except BaseException as error:
        said = _keep_partial(item, play, error)
        if not said:
            raise
    finally:
        item.obj = body
        timed = play.growing is None  # tracemalloc slows everything down
        if timed and (session := item.config.stash[STATE].session) is not None:
            item.stash[SPANS] = session.measured(play.ledger, play.seconds)
        if timed and item.config.stash[STATE].baseline is not None:
            item.stash[SAMPLES] = play.ledger.net()
        item.stash[PLAYED] = play
        del item.stash[fixtures.PLAY]
    if said:  # outside of the except clause, or pytest would show both
        pytest.fail(said, pytrace=False)
    if play.is_judged:
        from pytest_isolation.reports.junit import properties

        item.stash[RESULT] = result
        item.user_properties += properties(result)
        _fail_if_proven(item, play, result)
    return outcome


def _keep_partial(item: pytest.Function, play: Play, error: BaseException) -> str:
    """Lose nothing of what was proven before a test was interrupted or failed; what to say instead of its error."""
    from pytest_isolation.stand_in import NEVER_RAN

    if isinstance(error, PluginFault):
        return ""
    play.judge_interrupted()
    play.judge_users(demand=False)
    if isinstance(error, KeyboardInterrupt):  # no report will be made for this test
        item.config.stash[COLLECTED].results[item.nodeid] = play.result(interrupted=True)
        if (session := item.config.stash[STATE].session) is not None:
            session.add(session.measured(play.ledger, play.seconds))
        return ""
    text = ""
    if play.findings:
        from pytest_isolation.reports.terminal import failure_text

        item.stash[RESULT] = play.result()
        text = f"\n{failure_text(play.result())}"
    if isinstance(error, IsolationError):
        return "\n".join([f"pytest-isolation: {error}", *getattr(error, "__notes__", ()), *([text] if text else ())])
    if isinstance(error, pytest.skip.Exception) and not play.started and play.plan.is_judged:
        return f"pytest-isolation: {NEVER_RAN}"  # pytest < 8.4 skips an async test that nobody takes
    if text and isinstance(error, Exception):
        error.add_note(text)
        return ""
    if text.strip() in str(error):
        return ""  # isolation.check, explore or state_machine have said it, and maybe more
    # Neither a skip nor a failure that was asked for says anything of what was found before.
    return f"{text.strip()}\n\nThe test itself ended with {type(error).__name__}: {error}" if text else ""


def _fail_if_proven(item: pytest.Function, play: Play, result: Result) -> None:
    from pytest_isolation.reports.terminal import failure_text
    from pytest_isolation.stand_in import is_failure

    settings = item.config.stash[STATE].settings
    if not is_failure(result, settings):
        return
    text, error = failure_text(result, settings.fails_on_doubt), play.first_error
    if isinstance(error, Exception) and all(finding.kind == "failed" for finding in result.findings):
        error.add_note(f"\n{text}")  # the user's own assertion says best what went wrong
        raise error
    pytest.fail(text, pytrace=False)


def _fail_if_late(play: Play) -> None:
    """Judge what users observed while fixtures were torn down."""
    before = len(play.findings)
    play.judge_late()
    if len(play.findings) > before:
        from pytest_isolation.reports.terminal import failure_text

        pytest.fail(failure_text(replace(play.result(), verdicts=(), findings=tuple(play.findings[before:]))), False)
