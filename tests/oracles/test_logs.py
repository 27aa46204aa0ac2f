"""What is logged, warned of or printed during a user's work bears no secret of another."""

import logging
import sys
import textwrap
import warnings

import pytest

from pytest_isolation.oracles.interference import departures
from pytest_isolation.oracles.logs import overheard_canaries
from pytest_isolation.phases.recording import recording
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import overhear
from pytest_isolation.users.story import Story

HEAD = """
    import asyncio, contextvars, logging, sys, threading, warnings
    import pytest
    log = logging.getLogger("shop.orders")
    notes = {}
"""
TEST = """
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=6)
    async def test_it(user):
        note = user.secret("note")
        await handle(user.id, note)
        user.observe(note)
"""
# Whose note it is, is kept for the whole process (the fault), or for each task (its twin).
FAULT = """
    class Current:
        def set(self, value): self.value = value
        def get(self): return self.value
    current = Current()
"""
TWIN = "    current = contextvars.ContextVar('current')\n"
SAY = {
    "the message of a log record": (
        "log.warning('saved %s', current.get())",
        "log shop.orders, at $.message",
    ),
    "an extra attribute": ("log.warning('saved', extra={'note': current.get()})", "log shop.orders, at $.extra.note"),
    "an argument that is not shown": (
        "log.warning('saved %(what)s', {'what': 1, 'note': current.get()})",
        "log shop.orders, at $.args.note",
    ),
    "an exception that is logged": (
        "try: raise ValueError(current.get())\n        except ValueError: log.exception('failed')",
        "log shop.orders, at $.exception.*",
    ),
    "a warning": ("warnings.warn(f'slow: {current.get()}')", "warning"),
    "stdout": ("print('saved', current.get())", "stdout 2 of 2"),
    "stderr": ("sys.stderr.write(current.get())", "stderr"),
    "a task that the user starts": (
        "await asyncio.create_task(asyncio.to_thread(log.warning, current.get()))",
        "log shop.orders, at $.message",
    ),
}


def handle(say):
    return f"""
    async def handle(user_id, note):
        current.set(note)
        await asyncio.sleep(0)
        {say}
    """


def source(*parts):
    return "\n".join(textwrap.dedent(part) for part in (HEAD, *parts, TEST))


def test_a_foreign_secret_in_what_is_said_is_a_leak(several):
    """It names the channel, and where in it."""
    result = several([source(FAULT, handle(say)) for say, _ in SAY.values()], "-W", "default")
    result.assert_outcomes(failed=len(SAY))
    result.stdout.fnmatch_lines(
        [
            line
            for _, channel in SAY.values()
            for line in (
                "LEAK  the work of user-00 logged or printed the secret 'note' of user-05",
                f"  channel   {channel}",
                "  phase     crowd of 6 *",
            )
        ]
    )


def test_ones_own_secrets_are_no_leak(several, twin):
    """However often they are said."""
    result = several([source(TWIN, handle(say)) for say, _ in SAY.values()], "-W", "default")
    twin.is_silent(result, tests=len(SAY))


def test_a_thread_of_the_crowd_is_listened_to(suite):
    """In a sync scenario every user is a thread."""
    said = """
    meet = threading.Barrier(6)
    last = None
    @pytest.mark.isolation(users=6)
    def test_it(user):
        global last
        last = user.observe(user.id)
        if user._label.startswith("user"): meet.wait()
        logging.warning(last)
    """
    result = suite("\n".join(map(textwrap.dedent, (HEAD, said))))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["LEAK  the work of user-0* logged or printed the secret 'id' of user-0*", "  channel   log root, at $.message"]
    )


def test_what_is_said_is_no_observation(suite):
    """A scenario that observes nothing has measured nothing, however much it logs."""
    result = suite(
        """
        import logging, pytest
        @pytest.mark.isolation(users=2)
        def test_it(user): logging.warning(user.id)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the scenario observed nothing, so no leak could have been seen*"])


def test_what_is_said_is_not_compared_with_the_story_of_a_user_alone(stage):
    """Who logs more in a crowd than alone has shown nothing to anybody."""
    story = stage.story(lambda user: user.observe(user.id))
    for user in stage.users:
        user.observe(user.id)
        overhear(user, "log pool", f"waiting for {user.id}")
    evidence = stage.evidence()
    assert [*departures(evidence, story), *overheard_canaries(evidence, story)] == []


def test_what_goes_on_after_the_run_is_nobodys_work(stage):
    """A worker that the first user started serves all."""
    user = stage.users[0]
    run = stage.run(user)
    with recording():
        AT_WORK.set(user)
        logging.getLogger("worker").warning("for %s", stage.users[1].id)
        AT_WORK.set(None)
    assert run.overheard == ()
    assert list(overheard_canaries(stage.evidence(stage.run(user)), Story(()))) == []


def test_pytests_own_capture_goes_on(suite):
    """caplog, capsys and recwarn see what they see without the plugin."""
    suite(
        """
        import asyncio, logging, sys, warnings, pytest
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=2)
        async def test_it(user, caplog, capsys):
            user.observe(user.id)
            await asyncio.sleep(0)
            logging.warning("logged")
            print("printed")
            print("wrong", file=sys.stderr)
            with pytest.warns(UserWarning, match="warned"):
                warnings.warn("warned")
            assert "logged" in caplog.text
            assert capsys.readouterr() == ("printed\\n", "wrong\\n")
        """
    ).assert_outcomes(passed=1)


class Unprintable:
    def __str__(self):
        raise ValueError("no")


@pytest.mark.parametrize(
    "record",
    [("%s", Unprintable()), ("%d", "no number"), ("%s %s", 1), (Unprintable(),)],
    ids=["argument", "format", "too few", "message"],
)
def test_what_cannot_be_shown_does_not_stop_the_user(stage, record, monkeypatch):
    """Without the plugin the logging module says so itself, on stderr."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(logging.root, "handlers", [])
    logger = logging.getLogger("shop")
    with recording():
        AT_WORK.set(stage.users[0])
        logger.error(*record)
        AT_WORK.set(None)
    [heard] = stage.run(stage.users[0]).overheard
    assert heard.channel == "log shop"


def test_a_coroutine_that_is_logged_can_still_be_awaited(suite):
    """Looking at a thing must not use it up."""
    suite(
        """
        import logging, pytest
        async def answer(user): return user.id
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=2)
        async def test_it(user):
            coming = answer(user)
            logging.warning("waiting for %s", coming, extra={"what": coming, "each": iter([1])})
            user.observe(await coming)
        """,
        "-W",
        "default",
    ).assert_outcomes(passed=1)


METRICS = """
    import asyncio, contextvars, pytest
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from prometheus_client import Counter
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    tracer, orders = trace.get_tracer("shop"), Counter("orders", "of a customer", ["customer"])
CURRENT
    async def handle(name):
        current.set(name)
        await asyncio.sleep(0)
        SAY

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=6)
    async def test_it(user):
        await handle(user.secret("note"))
        user.observe(user.id)
"""
COUNT = {
    "an attribute of a span": (
        'with tracer.start_as_current_span("pay") as span: span.set_attribute("customer", current.get())',
        "span, at $.attributes.customer",
    ),
    "an event of a span": (
        'with tracer.start_as_current_span("pay") as span: span.add_event("paid", {"by": current.get()})',
        "span, at $.events[[]0].by",
    ),
    "a label of a metric": ("orders.labels(current.get()).inc()", "metric orders?, at $.customer"),
    "a label by its name": ("orders.labels(customer=current.get()).inc()", "metric orders?, at $.customer"),
}


def test_a_secret_in_what_is_traced_or_counted_is_a_leak(several):
    """Whoever watches the backend reads it under the name of somebody else."""
    tests = [METRICS.replace("CURRENT", FAULT).replace("SAY", say) for say, _ in COUNT.values()]
    result = several(
        [test.replace('"orders"', f'"orders{number}"') for number, test in enumerate(tests)], how="subprocess"
    )
    result.assert_outcomes(failed=len(COUNT))
    result.stdout.fnmatch_lines(
        [
            line
            for _, channel in COUNT.values()
            for line in (
                "LEAK  the work of user-0* logged or printed the secret 'note' of user-0*",
                f"  channel   {channel}*",
            )
        ]
    )


def test_where_each_traces_and_counts_its_own_nothing_is_found(suite, twin):
    """The correct twin of all of them."""
    say = "; ".join(say for say, _ in COUNT.values() if not say.startswith("with"))
    spans = "".join(f"\n        {say}" for say, _ in COUNT.values() if say.startswith("with"))
    twin.is_silent(suite(METRICS.replace("CURRENT", TWIN).replace("SAY", say + spans), how="subprocess"))


def test_what_is_said_does_not_hide_what_is_seen(suite, pytester):
    """Where it is allowed to log of others, a wrong answer is still one."""
    pytester.makeconftest(
        "def pytest_isolation_allow(finding): return 'audit' if 'log audit' in finding.channel else None"
    )
    result = suite(
        """
        import asyncio, logging, pytest
        last, count = None, 0
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=3)
        async def test_it(user):
            global last, count
            last, count = user.id, count + 1
            await asyncio.sleep(0)
            logging.getLogger("audit").warning(last)
            count, seen = count - 1, count
            user.observe({"id": user.id, "count": seen})
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["DIFFERENT  user-00 saw another response than alone"])


def test_several_may_listen_and_end_in_any_order(stage):
    """As checks in one loop do."""
    before = logging.root.handlers[:], warnings._showwarnmsg
    first, second = recording(), recording()
    first.__enter__()
    second.__enter__()
    AT_WORK.set(stage.users[0])
    first.__exit__(None, None, None)
    print("heard once")
    second.__exit__(None, None, None)
    AT_WORK.set(None)
    assert (logging.root.handlers, warnings._showwarnmsg) == before
    assert [heard.value for heard in stage.run(stage.users[0]).overheard] == ["heard once"]


@pytest.mark.parametrize("ending", [None, ValueError, KeyboardInterrupt])
def test_nothing_stays_behind(ending):
    """However it ends."""

    def hooked():
        streams = ["write" in vars(stream) for stream in (sys.stdout, sys.stderr)]
        return logging.root.handlers[:], logging.root.level, warnings._showwarnmsg, streams

    before = hooked()
    try:
        with recording():
            assert hooked() != before
            if ending is not None:
                raise ending
    except (ValueError, KeyboardInterrupt):
        pass
    assert hooked() == before


def test_nothing_stays_behind_after_a_test_that_failed(suite):
    """The next test finds logging, warnings and streams as they were."""
    suite(
        """
        import logging, sys, warnings, pytest
        seen = []
        def hooked():
            ours = [h for h in logging.root.handlers if type(h).__module__.startswith("pytest_isolation")]
            return ours, "write" in vars(sys.stdout), "write" in vars(sys.stderr), warnings._showwarnmsg.__module__
        before = hooked()
        @pytest.mark.isolation(users=2)
        def test_fails(user):
            seen.append(hooked())
            user.observe(user.id)
            assert user._label.startswith("solo")
        def test_finds_nothing():
            assert seen[-1] != before == hooked()
        """
    ).assert_outcomes(failed=1, passed=1)
