"""What the whole process shares stays as it was."""

import contextvars
import decimal
import logging
import signal
import socket
import textwrap
import warnings

import pytest

from pytest_isolation.model import Aftermath, Change
from pytest_isolation.oracles.ambient import ambient_changes, settled_alone
from pytest_isolation.phases.ambient import Value, changes, closer_look, glance, state
from pytest_isolation.users.story import Story

VARIABLE = contextvars.ContextVar("variable")

HEAD = """
    import asyncio, contextvars, decimal, locale, logging, os, signal, socket, threading, warnings
    from concurrent.futures import ThreadPoolExecutor
    import pytest
    log = logging.getLogger("shop")
    def crowded(user): return user._label.startswith("user")
    kept = contextvars.ContextVar("kept")
    kept.set([])
    decimal.getcontext()
    of_thread = threading.local()
    pool = ThreadPoolExecutor(1)
    def work(user, clears):
        of_thread.user = user.id
        if clears: del of_thread.user
    locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
    @pytest.fixture(autouse=True)
    def restored(monkeypatch, tmp_path):
        before = log.level, log.handlers[:], signal.getsignal(signal.SIGUSR1), socket.getdefaulttimeout()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TENANT", "nobody")
        yield
        log.setLevel(before[0])
        log.handlers[:] = before[1]
        signal.signal(signal.SIGUSR1, before[2])
        socket.setdefaulttimeout(before[3])
        decimal.DefaultContext.prec = decimal.getcontext().prec = 28
        locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
"""
TEST = """
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3)
    async def test_it(user):
        await asyncio.sleep(0)
        user.observe(user.id)
        {do}
"""
# Each: what is done, its correct twin, and the line of the report.
FAULTS = {
    "a user's name in the environment": (
        "os.environ['TENANT'] = user.secret('note')",
        "kept.set(user.secret('note'))",
        "AMBIENT  os.environ['TENANT'] was changed by the scenario: '*' → '<note of user-0*>'",
    ),
    "a variable of its own": (
        "os.environ[f'TOKEN_{user.id}'] = 'x'",
        "os.environ['TOKEN'] = 'x'; del os.environ['TOKEN']",
        "AMBIENT  os.environ['TOKEN_<id of *>'] was changed by the scenario: nothing → '…'",
    ),
    "what only a crowd puts into the environment": (
        "if crowded(user): os.environ['TENANT'] = 'somebody'",
        "if crowded(user): os.environ['TENANT'] = 'nobody'",
        "AMBIENT  os.environ['TENANT'] was changed by the scenario: '…' → '…'",
    ),
    "the folder": (
        "if crowded(user): os.chdir('/')",
        "os.chdir('.')",
        "AMBIENT  the working directory was changed by the scenario: '*' → '/'",
    ),
    "a level": (
        "if crowded(user): log.setLevel(logging.DEBUG)",
        "log.setLevel(logging.DEBUG); log.setLevel(logging.NOTSET)",
        "AMBIENT  the level of logger 'shop' was changed by the scenario: 'NOTSET' → 'DEBUG'",
    ),
    "a handler for each request": (
        "if crowded(user): log.addHandler(logging.NullHandler())",
        "handler = logging.NullHandler(); log.addHandler(handler); log.removeHandler(handler)",
        "AMBIENT  the list of handlers of logger 'shop' was changed by the scenario: 'none' → 'NullHandler, *'",
    ),
    "a signal": (
        "if crowded(user): signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))",
        "AMBIENT  the handler of signal SIGUSR1 was changed by the scenario: 'SIG_DFL' → 'SIG_IGN'",
    ),
    "filters of warnings that are restored in another order": (
        "with warnings.catch_warnings(): warnings.simplefilter('ignore'); await asyncio.sleep(0.01 * (user.index + 1))",
        "with warnings.catch_warnings(): warnings.simplefilter('ignore')",
        "AMBIENT  warnings.filters was changed by the scenario: '* filters' → '* filters'",
    ),
    "the handler of the event loop": (
        "if crowded(user): asyncio.get_running_loop().set_exception_handler(print)",
        "asyncio.get_running_loop().set_exception_handler(None)",
        "AMBIENT  the exception handler of the event loop was changed by the scenario: 'none' → 'builtins.print'",
    ),
    "decimal arithmetic": (
        "if crowded(user): decimal.DefaultContext.prec = 5",
        "decimal.Context(prec=5)",
        "AMBIENT  decimal.DefaultContext was changed by the scenario: 'prec=28, *' → 'prec=5, *'",
    ),
    "decimal arithmetic in a Context that all others copy": (
        "if crowded(user): decimal.getcontext().prec = 5",
        "with decimal.localcontext() as own: own.prec = 5",
        "AMBIENT  the ContextVar 'decimal_context' was changed by the scenario: 'prec=28, *' → 'prec=5, *'",
    ),
    "a list that all Contexts share": (
        "kept.get().append(user.secret('note'))",
        "kept.set([user.secret('note')])",
        "AMBIENT  the ContextVar 'kept' was changed by the scenario: *<note of user-00>*",
    ),
    "the locale": (
        "if crowded(user): locale.setlocale(locale.LC_NUMERIC, 'C')",
        "locale.setlocale(locale.LC_NUMERIC, 'C'); locale.setlocale(locale.LC_NUMERIC, 'C.UTF-8')",
        "AMBIENT  the locale was changed by the scenario: *LC_NUMERIC=C;*",
    ),
    "a thread-local of the event loop's thread": (
        "of_thread.note = {'of': user.secret('note')}",
        "of_thread.note = {'of': 'nobody'}",
        "AMBIENT  the thread-local attribute 'note' of test_it.of_thread was changed by the scenario: *<note of *>'}'",
    ),
    "a thread-local of a worker who is kept": (
        "await asyncio.get_running_loop().run_in_executor(pool, work, user, False)",
        "await asyncio.get_running_loop().run_in_executor(pool, work, user, True)",
        "AMBIENT  the thread-local attribute 'user' of test_it.of_thread was changed by the scenario: *<id of *",
    ),
    "the timeout of sockets": (
        "if crowded(user): socket.setdefaulttimeout(5)",
        "with socket.socket() as end: end.settimeout(5)",
        "AMBIENT  the default timeout of sockets was changed by the scenario: 'None' → '5.0'",
    ),
}


def play(suite, do):
    return suite(textwrap.dedent(HEAD) + textwrap.dedent(TEST).format(do=do), "-W", "default")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_crowd_changes_for_everybody_is_a_finding(suite, fault):
    """What, and from what to what."""
    do, _, line = FAULTS[fault]
    result = play(suite, do)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([line.replace("['", "[[]'"), "  phase     *crowd*, seed *", "  replay *"])


@pytest.mark.parametrize("fault", FAULTS)
def test_its_correct_twin_is_none(suite, fault, twin):
    """It is the user's own, or as it was."""
    result = play(suite, FAULTS[fault][1])
    twin.is_silent(result)
    result.stdout.no_fnmatch_line("*was changed*")


def test_what_a_user_alone_changes_for_good_is_a_note(suite):
    """A library that is started with the first request does so."""
    result = play(suite, "os.environ['TENANT'] = 'all'")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["test_it.py::test_it: os.environ[[]'TENANT'] was changed for the whole process by a user who was alone"]
    )


def findings(stage, alone, crowd):
    from dataclasses import replace

    evidence = replace(stage.evidence(), after=Aftermath(changes=crowd), after_alone=(Aftermath(changes=alone),))
    return [finding.summary for finding in ambient_changes(evidence, Story(()))]


def test_a_secret_that_a_user_alone_leaves_to_all_is_a_finding(stage):
    """Though the crowd changed nothing."""
    change = Change("os.environ['TENANT']", None, f"for {stage.users[1].id}")
    assert findings(stage, (change,), ()) == [
        "os.environ['TENANT'] was changed by the scenario: nothing → 'for <id of user-01>'"
    ]
    assert settled_alone([Aftermath(changes=(change,))]) == []


def test_no_value_of_the_environment_is_shown(stage):
    """It holds real secrets."""
    [summary] = findings(stage, (), (Change("os.environ['PASSWORD']", "hunter1", "hunter2"),))
    assert summary == "os.environ['PASSWORD'] was changed by the scenario: '…' → '…'"


def test_of_a_long_value_the_part_is_shown_that_changed(stage):
    """With a little of what stands before it."""
    long = "x" * 100
    [summary] = findings(stage, (), (Change("the ContextVar 'kept'", f"[{long}]", f"[{long}, 1]"),))
    assert summary == (f"the ContextVar 'kept' was changed by the scenario: '…{'x' * 20}]' → '…{'x' * 20}, 1]'")


def test_another_one_of_the_same_name_is_a_change(stage):
    """As a handler that took the place of one of its kind."""
    [summary] = findings(stage, (), (Change("the list of handlers of logger 'shop'", "Null", "Null"),))
    assert summary == "the list of handlers of logger 'shop' was changed by the scenario: another 'Null' than before"


def test_a_secret_that_goes_from_a_thread_local_is_none():
    """Whose thread-local it was may have been collected only now."""
    name = "the thread-local attribute 'note' of _local"
    assert [*changes({name: Value("'…'")}, {})] == []
    assert [*changes({}, {name: Value("'…'")})] == [Change(name, None, "'…'")]


def test_a_filter_that_python_leaves_when_threads_start_processes_is_none():
    """`os.get_exec_path` sets it for a moment, and two threads may restore in the wrong order."""
    with warnings.catch_warnings():
        before = state()
        warnings.simplefilter("ignore", BytesWarning)
        assert [*changes(before, state())] == []
        warnings.simplefilter("ignore", ResourceWarning)
        assert [change.name for change in changes(before, state())] == ["warnings.filters"]


def set_variable(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")


def change_folder(monkeypatch):
    monkeypatch.chdir("/")


def add_handler(monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers, logging.NullHandler()])


def change_level(monkeypatch):
    monkeypatch.setattr(logging.root, "level", logging.root.level + 1)


def set_timeout(monkeypatch):
    monkeypatch.setattr(socket, "getdefaulttimeout", lambda: 17.0)


def filter_warnings(monkeypatch):
    monkeypatch.setattr(warnings, "filters", [("ignore", None, ResourceWarning, None, 0), *warnings.filters])


@pytest.mark.parametrize(
    "change", [set_variable, change_folder, add_handler, change_level, set_timeout, filter_warnings]
)
def test_a_glance_sees_what_is_often_changed(monkeypatch, change):
    """So the whole state is looked at only where something is not as it was."""
    before = state(), glance()
    assert glance() == before[1]
    change(monkeypatch)
    assert [*changes(before[0], state())]
    assert glance() != before[1]


def handle_signal(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: handle_signal)
    monkeypatch.setattr("pytest_isolation.phases.ambient._handler", lambda number: handle_signal)


def round_down(monkeypatch):
    monkeypatch.setattr(decimal.DefaultContext, "rounding", decimal.ROUND_DOWN)


def set_context_variable(monkeypatch):
    monkeypatch.setattr(contextvars, "copy_context", lambda: {VARIABLE: "set"})


@pytest.mark.parametrize("change", [handle_signal, round_down, set_context_variable])
def test_a_closer_look_sees_the_rest(monkeypatch, change):
    """What a glance does not."""
    before = state(), glance(), closer_look()
    assert closer_look() == before[2]
    change(monkeypatch)
    assert [*changes(before[0], state())]
    assert (glance() == before[1], closer_look() == before[2]) == (True, False)
