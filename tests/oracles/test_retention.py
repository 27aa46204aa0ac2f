"""Nothing of a user is kept alive when its run has ended."""

import json
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_isolation.model import Aftermath, Hold, Holding
from pytest_isolation.oracles.retention import cycles, stores

# What is said to keep an object alive; lines and descriptors are left out.
SAID = {
    "a module global": "keeping.last",
    "a container": "keeping.store → Store.cache → dict['last'] → list[0] → tuple[0]",
    "a slot": "keeping.store → Store.slot → Slotted.message",
    "a class attribute": "keeping.Inbox.messages → list[0]",
    "a closure": "keeping.kept → list[0] → closure 'message' of keeping.answer",
    "a default": "keeping.kept → list[0] → default of keeping.<lambda>",
    "a bound method": "keeping.kept → list[0] → bound method Message.show",
    "a partial": "keeping.kept → list[0] → partial of print",
    "lru_cache": "lru_cache of keeping.load",
    "lru_cache without a limit": "lru_cache of keeping.load_all",
    "a key of lru_cache": "lru_cache of keeping.count → tuple[0]",
    "a traceback": "keeping.last → ValueError.__traceback__ → local 'message' of in_traceback, keeping.py:N",
    "a thread-local": "keeping.local → thread-local 'user'",
    "a saved Context": "keeping.kept → list[0] → ContextVar 'tenant'",
    "the current Context": "the current Context → ContextVar 'tenant'",
    "a generator": "keeping.kept → list[0] → local 'note' of pages, keeping.py:N",
    "a key": "keeping.kept → list[0] → key of a dict",
    "a set": "keeping.kept → list[0] → in a set",
    "an object of C": "keeping.kept → list[0] → repeat",
    "a cycle that is kept": "keeping.kept → list[0] → list[0]",
    "C code": "held by C code, 1 reference",
    "a store, far, and a traceback, near": "keeping.store → Store.cache → dict['far'] → list[0] → list[0] → list[0]",
    "a running function": "local 'note' of running, keeping.py:N",
    "a task that waits": "task of push_later → local 'note' of push_later, keeping.py:N",
    "a task's Context": "task of push → ContextVar 'tenant'",
    "a timer": "argument of a timer that calls print",
    "a timer's Context": "timer that calls print → ContextVar 'tenant'",
    "a callback of a future": "task of on_the_loop → local 'future' of on_the_loop, keeping.py:N → Future → "
    "bound method Message.show",
    "a thread": "thread 'pusher' → Thread._args → tuple[0]",
    "a reader of the loop": "_UnixSelectorEventLoop._selector → EpollSelector._fd_to_key → dict[N] → SelectorKey.data → "
    "tuple[0] → argument of a handle that calls print",
}
DEAD = ("a weak dictionary", "a cycle", "a timer that was cancelled")
HARMLESS = ("the Context of a timer that was cancelled",)  # gone when it would have been due


@pytest.fixture(scope="module")
def said():
    """What is said of all of them, in a process of its own, where nothing is frozen."""
    code = "import sys; sys.path.insert(0, ''); import keeping"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("holder", SAID)
def test_what_keeps_an_object_is_said_as_a_person_would(said, holder):
    """From a root to the object, through the fewest things, those one would look at first."""
    if "reader" in holder and sys.platform != "linux":
        pytest.skip("another selector")
    assert re.sub(r"(?<=keeping\.py:)\d+|(?<=dict\[)\d+", "N", said[holder]) == SAID[holder]


def test_what_refers_weakly_keeps_nothing(said):
    """Neither does a cycle of references, nor a timer that was cancelled."""
    assert {name: said[name] for name in (*DEAD, *HARMLESS)} == dict.fromkeys(DEAD, "dead") | dict.fromkeys(
        HARMLESS, "nothing"
    )


HEAD = """
    import asyncio, contextvars, functools, gc, pytest, threading, weakref
    class Message:
        def __init__(self, text): self.text = text
    class Slotted:
        __slots__ = ("text",)
    kept, notes, local, tenant = [], {}, threading.local(), contextvars.ContextVar("tenant")
    @pytest.fixture
    def app():
        return Message("app")
"""
ASYNC = """
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=4, cancel=False)
    async def test_it(user, app):
        message = user.track(Message(user.id))
        user.observe(await handle(user, app, message))
"""
# Each: what keeps what the user tracks, its correct twin, the lines of the report.
TRACKED = {
    "a global": (
        """
        async def handle(user, app, message):
            kept.append(message)
            return user.id
        """,
        """
        async def handle(user, app, message):
            kept.append(message)
            await asyncio.sleep(0)
            kept.remove(message)
            return user.id
        """,
        [
            "RETAINED  a Message of solo-00 is still alive, though its run has ended",
            "  phase     solo, one user after another, seed *",
            '  seen      "it was tracked at test_??.py:* in test_it"',
            "  kept by   test_??.kept → list[[]0]",
            "  replay    pytest test_??.py::test_it*--isolation-replay=crowd:4:*",
        ],
    ),
    "what a fixture made": (
        """
        async def handle(user, app, message):
            app.last = message
            return user.id
        """,
        """
        async def handle(user, app, message):
            app.last = weakref.ref(message)
            return user.id
        """,
        ["RETAINED  a Message of solo-00 is still alive*", "  kept by   fixture 'app' → Message.last"],
    ),
    "a crowd only": (
        """
        busy = 0
        async def handle(user, app, message):
            global busy
            busy += 1
            await asyncio.sleep(0.01)
            if busy > 1: kept.append(message)
            await asyncio.sleep(0.01)
            busy -= 1
            return user.id
        """,
        """
        async def handle(user, app, message):
            task = asyncio.create_task(asyncio.sleep(0.1))  # goes on for a moment, and is waited for
            task.message = message
            task.add_done_callback(lambda task: delattr(task, "message"))
            return user.id
        """,
        ["RETAINED  a Message of user-00 is still alive*", "  phase     crowd of 4 users, seed *"],
    ),
}


def source(*parts):
    return "\n".join(textwrap.dedent(part) for part in (HEAD, *parts))


def play(suite, *parts, **options):
    return suite(source(*parts), "-W", "default", **options)


@pytest.mark.usefixtures("impatient")
def test_what_outlives_its_run_is_a_finding(several):
    """What, whose, where it was tracked, and what keeps it."""
    result = several([source(faulty, ASYNC) for faulty, _, _ in TRACKED.values()], "-W", "default")
    result.assert_outcomes(failed=len(TRACKED))
    result.stdout.fnmatch_lines([line for _, _, lines in TRACKED.values() for line in lines])


def test_their_correct_twins_are_none(several, twin):
    """They let go, refer weakly, or only for a moment."""
    result = several([source(correct, ASYNC) for _, correct, _ in TRACKED.values()], "-W", "default")
    twin.is_silent(result, len(TRACKED))


def test_a_cycle_is_told_apart(suite):
    """It goes when garbage is collected: a note, and no finding."""
    result = play(
        suite,
        """
        async def handle(user, app, message):
            message.me = message
            return user.id
        """,
        ASYNC,
    )
    assert result.parseoutcomes()["passed"] == 1
    result.stdout.fnmatch_lines(["*a Message that was tracked at test_it.py:* in test_it went only when garbage*"])


def test_of_what_a_backend_tracks_no_place_is_told():
    """There is none in the test."""
    [note] = cycles([Holding(0, "RequestContext", "", in_cycle=True)])
    assert note.startswith("a RequestContext that was tracked went only when garbage was collected (1 times)")


def test_the_collector_works_again_afterwards(suite):
    """It rests only as long as something is tracked."""
    result = play(
        suite,
        """
        def test_before(): assert gc.isenabled()
        @pytest.mark.isolation(users=2)
        def test_it(user):
            user.track(Message(user.id))
            assert not gc.isenabled()
            user.observe(user.id)
        def test_after(): assert gc.isenabled()
        """,
    )
    assert result.parseoutcomes()["passed"] == 3


def test_users_who_fail_are_not_accused_by_what_this_plugin_keeps(suite):
    """Their exceptions have tracebacks, and those the variables of the scenario."""
    result = play(
        suite,
        """
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4)
        async def test_it(user):
            message = user.track(Message(user.secret("note")))
            user.observe(message.text)
            await asyncio.sleep(0.01)
            assert not user._label.startswith("user-0")
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*FAILED  user-00 failed*"])
    result.stdout.no_fnmatch_line("*RETAINED*")


def test_what_cannot_be_tracked_is_refused(suite):
    """With the way out."""
    result = play(
        suite,
        """
        @pytest.mark.isolation(users=2)
        def test_it(user):
            user.observe(user.id)
            user.track(Slotted())
        """,
    )
    result.stdout.fnmatch_lines(["*track() cannot follow a Slotted*__slots__ = (…, '__weakref__')*"])


@pytest.mark.usefixtures("impatient")
def test_users_of_one_test_and_explored_ones_are_followed_too(suite):
    """At the end of the test, and at the end of each run."""
    result = play(
        suite,
        """
        def test_several(users):
            alice, bob = users(2)
            kept.append(alice.track(Message("hello")))
            bob.observe(bob.id)
        class Backend:
            def __init__(self): self.store = []
        def test_explored(isolation):
            async def scenario(user, backend):
                backend.store.append(user.track(Message(user.id)))
                user.observe(user.id)
            isolation.explore(Backend, scenario, seconds=1)
        def test_explored_well(isolation):
            async def scenario(user, backend):
                message = user.track(Message(user.id))
                message.me = message
                user.observe(user.id)
                await asyncio.sleep(0)
            isolation.explore(Backend, scenario, seconds=0.2)
        """,
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*RETAINED  a Message of user-00 *",
            "*kept by   test_it.kept → list[[]0]",
            "*kept by   backend.store → list[[]0]",
        ]
    )


SECRET = """
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=4, cancel=False{heap})
    async def test_it(user):
        user.observe(await handle(user, user.secret("note")))
"""
# Each: what keeps a secret and never is a store, its correct twin, and the way to it.
KEPT = {
    "an exception": (
        """
        async def handle(user, note):
            try: raise ValueError("no")
            except ValueError as error: kept[:] = [error]
            return user.id
        """,
        """
        async def handle(user, note):
            try: raise ValueError("no")
            except ValueError as error: kept[:] = [error.with_traceback(None)]
            return user.id
        """,
        "test_??.kept → list[[]0] → ValueError.__traceback__ → local 'note' of handle, test_??.py:*",
    ),
    "a thread-local": (
        """
        async def handle(user, note):
            local.note = note
            return user.id
        """,
        """
        async def handle(user, note):
            local.note = note
            del local.note
            return user.id
        """,
        "test_??.local → thread-local 'note'",
    ),
    "a timer's Context": (
        """
        async def handle(user, note):
            tenant.set(note)
            asyncio.get_running_loop().call_later(100, print)
            return user.id
        """,
        """
        async def handle(user, note):
            tenant.set(note)
            asyncio.get_running_loop().call_later(100, print).cancel()
            return user.id
        """,
        "timer that calls print → ContextVar 'tenant'",
    ),
    "closures": (
        """
        async def handle(user, note):
            kept.append(lambda: note)
            return user.id
        """,
        """
        async def handle(user, note):
            kept.append(lambda: None)
            return user.id
        """,
        "test_??.kept → list[[]…] → closure 'note' of test_??.<lambda>",
    ),
    "coroutines": (
        """
        async def pages(note):
            yield len(note)
        async def handle(user, note):
            kept.append(pages(note))
            await kept[-1].__anext__()
            return user.id
        """,
        """
        async def pages(note):
            yield len(note)
        async def handle(user, note):
            kept.append(pages(note))
            await kept[-1].__anext__()
            await kept[-1].aclose()
            return user.id
        """,
        "test_??.kept → list[[]…] → local 'note' of pages, test_??.py:*",
    ),
}


# What the whole process keeps, and what goes on, is found before memory is searched.
SOONER = {"a thread-local": "AMBIENT  *thread-local*", "a timer's Context": "LEFT  * left a timer behind: print"}


@pytest.mark.usefixtures("impatient")
def test_what_is_found_sooner_is_not_searched_for(several):
    """By the oracles of what is changed for all, and of what goes on."""
    result = several([source(KEPT[keeper][0], SECRET.format(heap="")) for keeper in SOONER], "-W", "default")
    result.assert_outcomes(failed=len(SOONER))
    result.stdout.fnmatch_lines([*SOONER.values()])
    result.stdout.no_fnmatch_line("*RETAINED*")


def test_a_secret_where_none_belongs_is_suspected(several):
    """Without that anything was tracked."""
    kept = [KEPT[keeper] for keeper in KEPT if keeper not in SOONER]
    result = several([source(faulty, SECRET.format(heap="")) for faulty, _, _ in kept], "-W", "default")
    result.assert_outcomes(failed=len(kept))
    result.stdout.fnmatch_lines(
        [
            line
            for _, _, path in kept
            for line in ("RETAINED  suspected: the secret 'note' of * can still be reached*", f"  kept by   {path}")
        ]
    )


def test_where_it_is_not_kept_nothing_is(several, twin):
    """The correct twins, whatever keeps being a finding."""
    sources = [source(correct, SECRET.format(heap=", heap=True")) for _, correct, _ in KEPT.values()]
    twin.is_silent(several(sources, "-W", "default"), len(KEPT))


STORE = """
    async def handle(user, note):
        notes[user.id] = {"text": [note], "number": user.number()}
        await asyncio.sleep(0)
        return user.id
"""


@pytest.mark.parametrize(
    ("heap", "ini", "outcome", "line"),
    [
        (
            "",
            "",
            "passed",
            "*still reachable after the crowd: the secret* of 4 of 4 users*: test_it.notes → dict[[]'…'[]]*",
        ),
        (", heap=False", "", "passed", None),
        (", heap=True", "", "failed", "RETAINED  the secret 'note' of 4 of 4 users and 5 who were alone can still be*"),
        (
            ", heap=True",
            "isolation_heap_allow = test_it.notes*: it is what the shop sells",
            "passed",
            "*allowed: the secret*'note'* of 4 of 4 users*(it is what the shop sells)",
        ),
        (
            "",
            "isolation_heap_allow = test_it.notes*: it is what the shop sells",
            "passed",
            "*allowed: still reachable*(it is what the shop sells)",
        ),
    ],
    ids=["by default a note", "not looked for", "a finding", "a finding that is allowed", "a note that is allowed"],
)
def test_what_may_be_a_store(suite, heap, ini, outcome, line):
    """Is a note, unless the marker says that nothing is one."""
    result = play(suite, STORE, SECRET.format(heap=heap), ini=ini)
    assert result.parseoutcomes()[outcome] == 1
    if line is None:
        result.stdout.no_fnmatch_line("*still reachable*")
    else:
        result.stdout.fnmatch_lines([line])


@pytest.mark.usefixtures("impatient")
def test_a_way_can_be_allowed_for_what_was_tracked(suite):
    """The reason is shown."""
    result = play(suite, TRACKED["a global"][0], ASYNC, ini="isolation_heap_allow = *kept → list[*]: for good")
    assert result.parseoutcomes()["passed"] == 1
    result.stdout.fnmatch_lines(["*allowed: a Message of solo-00 is still alive*(for good)"])


@pytest.mark.parametrize("line", ["test_it.notes*", "test_it.notes*: ", ": because"])
def test_an_allowance_without_a_reason_is_a_usage_error(suite, line):
    """Nobody would know later why."""
    result = play(suite, ASYNC, ini=f"isolation_heap_allow =\n    {line}")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*isolation_heap_allow in the ini file: *it takes a pattern*and why that may be*"])


def test_a_clean_scenario_leaves_nothing(suite):
    """Whatever it observes, logs, prints, raises and keeps in its own Context."""
    result = play(
        suite,
        """
        import logging
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=6, heap=True)
        async def test_it(user, caplog, capsys):
            note, number = user.secret("note"), user.number()
            tenant.set(note)
            logging.warning("%s", note)
            print(note)
            user.observe({"note": [note, {"number": number}], "of": user.id})
            await asyncio.to_thread(print, note)
            with pytest.raises(ValueError) as raised:
                raise ValueError(note)
            user.observe(raised.value)
        """,
    )
    assert result.parseoutcomes()["passed"] == 1


def test_frozen_objects_are_said_to_be_hidden(suite):
    """With gc.freeze() nobody sees what they refer to."""
    result = play(
        suite,
        """
        gc.freeze()
        @pytest.mark.isolation(users=2)
        def test_it(user):
            user.track(Message(user.id))
            user.observe(user.id)
        """,
    )
    result.stdout.fnmatch_lines(["*objects were frozen with gc.freeze()*"])


TOGETHER = """
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=4, heap=True, cancel=False)
    async def test_it(user, app):
        mine = user.track(Message(user.id))
        with joined(mine, app):
            await asyncio.sleep(0.01)
            user.observe(user.id)
"""


@pytest.mark.parametrize(
    ("joined", "ini", "line"),
    [
        (
            "mine.parts = kept; kept.append(mine)",
            "",
            "*RETAINED  while both were at work, what belongs to user-0* led to a Message of user-0*",
        ),
        (
            "mine.parts = kept; kept.append(mine)",
            "isolation_heap_allow = Message.parts → list*: all see all",
            "*allowed: while*",
        ),
        ("mine.parts = []; mine.parts.append(mine)", "", None),
        ("mine.parts = app; app.all = [*getattr(app, 'all', []), mine]", "", None),
    ],
    ids=["through a list that they share", "allowed", "a list of its own", "through what a fixture made"],
)
def test_nothing_of_one_leads_to_what_belongs_to_another(suite, joined, ini, line):
    """While both are at work, with heap=True; what fixtures made is there for all."""
    head = f"""
        import contextlib
        @contextlib.contextmanager
        def joined(mine, app):
            {joined}
            yield
            vars(mine).clear(); kept.clear(); vars(app).clear()
        """
    result = play(suite, head, TOGETHER, ini=ini)
    found = bool(line) and not ini
    result.assert_outcomes(**{"failed" if found else "passed": 1})
    if found:
        result.stdout.fnmatch_lines([line, "  kept by   Message.parts → list[[]*]"])
    elif line:
        result.stdout.fnmatch_lines([line])


@pytest.mark.usefixtures("impatient")
def test_what_the_reference_backend_makes_for_a_request_is_tracked_by_itself(suite):
    """Contexts, leases and sessions; so the test need not do it."""
    result = play(
        suite,
        """
        @pytest.mark.parametrize("part", ["nothing", "context", "_lease", "session"])
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=2, cancel=False)
        async def test_it(user, isolation_backend, part):
            async with isolation_backend.request(user.id) as request:
                async with request.session() as session:
                    user.observe(user.id)
                if part != "nothing":
                    kept.append(session if part == "session" else getattr(request, part))
        """,
    )
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [f"*RETAINED  a {kind} of solo-00 is still alive*" for kind in ("RequestContext", "Lease", "UserSession")]
    )


def test_where_a_worker_stood_when_it_was_cancelled_is_no_finding(suite):
    """Since Python 3.12 its task keeps that for as long as the backend keeps the task: it is told of, as of a store."""
    result = play(
        suite,
        """
        class Worker:
            async def __aenter__(self):
                self.jobs = asyncio.Queue()
                self.task = asyncio.create_task(self.run())
                return self
            async def __aexit__(self, *_):
                self.task.cancel()
                await asyncio.gather(self.task, return_exceptions=True)
            async def run(self):
                while True:
                    note, done = await self.jobs.get()
                    await asyncio.sleep(0.001)
                    if not done.done(): done.set_result(note)
        def test_worker(isolation):
            async def scenario(user, worker):
                done = asyncio.get_running_loop().create_future()
                worker.jobs.put_nowait((user.secret("note"), done))
                user.observe(await done)
            isolation.explore(Worker, scenario, seconds=0.1)
        """,
    )
    result.assert_outcomes(passed=1)


def test_memory_is_searched_after_an_exploration_too(suite):
    """What the backend of the last run keeps."""
    result = play(
        suite,
        """
        class Backend:
            def __init__(self): self.notes, self.last = {}, None
            async def keep(self, user_id, note):
                self.notes[user_id] = note
                await asyncio.sleep(0)
                return note
            async def fail(self, note):
                await asyncio.sleep(0)
                try: raise ValueError
                except ValueError as error: self.last = error
                return note
        def test_store(isolation):
            async def scenario(user, backend): user.observe(await backend.keep(user.id, user.secret("note")))
            isolation.explore(Backend, scenario, seconds=0.1)
        def test_error(isolation):
            async def scenario(user, backend): user.observe(await backend.fail(user.secret("note")))
            isolation.explore(Backend, scenario, seconds=0.1)
        """,
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*kept by   backend.last → ValueError.__traceback__ → local 'note' of Backend.fail, test_it.py:*",
            "*still reachable after the exploration: the secret 'note' of [23] of 3 users*: backend.notes → dict[[]'…'[]]",
        ]
    )


def test_one_who_was_alone_is_one(stage):
    """The last crowd of an exploration may lack a user whom a run before had."""
    owners = [user._number for user in (*stage.users[:2], *stage.cast.users(1, "solo"))]
    held = [Holding(owner, "the secret 'note'", "shop.notes", by=Hold.STORE, secrets=("note",)) for owner in owners]
    evidence = replace(stage.evidence(), after=Aftermath(held=tuple(held)))
    assert [*stores(evidence)] == [("the secret 'note' of 2 of 3 users and 1 who was alone", "shop.notes")]


CODE = {
    "int": "*track() takes what belongs to one user's run, and the class int belongs to all*made for this user*",
    "gc": "*the module gc belongs to all*",
    "helper": "*the function helper belongs to all*",
    "len": "*the function len belongs to all*",
    "user.secret": "*track() cannot follow the method secret: track the object whose method it is*",
    "[].append": "*track() cannot follow the method append: track the object whose method it is*",
}


@pytest.mark.parametrize("thing", CODE)
def test_what_is_the_same_for_all_users_cannot_be_tracked(suite, thing):
    """It lives for ever by right; and a method is gone at once, so that it would prove nothing."""
    result = suite(
        f"""
        import gc, pytest
        def helper(): pass
        @pytest.mark.isolation(users=2)
        def test_it(user):
            user.observe(user.id)
            user.track({thing})
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([CODE[thing]])


def test_a_callback_that_was_made_in_a_run_belongs_to_it(suite):
    """What keeps it is found."""
    result = suite(
        """
        import pytest
        kept = []
        @pytest.mark.isolation(users=2)
        def test_it(user):
            user.observe(user.id)
            kept.append(user.track(lambda: user.id))
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["RETAINED  a function of *", "*kept by   test_it.kept *"])
