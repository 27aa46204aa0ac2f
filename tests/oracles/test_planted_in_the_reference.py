"""The faults F1 to F22 of the backend that came before, planted one by one into a copy of the reference backend.

docs/explanation/planted-faults.md has the same table, and says of which faults there is no counterpart.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import reference_impl

SOURCE = Path(reference_impl.__file__).parent
DOCS = Path(__file__).parents[2] / "docs" / "explanation" / "planted-faults.md"

# Scenarios that wait for nothing are fine here: the fault is what is looked for.
LENIENT = ("-W", "ignore::pytest_isolation.IsolationWarning")
HEAD = """
import asyncio, contextlib
from dataclasses import replace
import pytest, pytest_asyncio
from planted.agents import Agent
from planted.backend import ReferenceBackend
from planted.context import RequestContext
from planted.settings import BALANCED

pytestmark = pytest.mark.asyncio

@pytest_asyncio.fixture
async def backend():
    backend = ReferenceBackend(replace(BALANCED, emitters_ready=2, emitters_limit=10, emitter_timeout_s=0.3, agents_per_user=2))
    await backend.start()
    yield backend
    await backend.aclose()

async def heard(user, inbox):
    for _ in range(3):
        await asyncio.sleep(0)
    while inbox.pending():
        user.observe(await inbox.receive(), "event")
"""
EVENTS = """
@pytest.mark.isolation(users=8)
async def test_it(user, backend):
    async with backend.connect(user.id) as inbox:
        async with backend.request(user.id) as request:
            await asyncio.sleep(0)
            await request.emit("agent_thinking", {"about": user.secret("thought")})
            await heard(user, inbox)
"""
LATE = """
@pytest.mark.isolation(users=8)
async def test_it(user, backend):
    async with backend.connect(user.id) as inbox:
        async with backend.request(user.id) as ended:
            await ended.emit("agent_thinking", {"about": user.secret("thought")})
        await asyncio.sleep(0)
        async with backend.request(user.id) as request:
            await asyncio.sleep(0)
            with contextlib.suppress(RuntimeError):
                await ended.emit("agent_thinking", {"about": user.secret("late")})
            await heard(user, inbox)
"""
TWO_RUNS = """
@pytest.mark.isolation(users=2)
async def test_it(user, backend):
    async with contextlib.AsyncExitStack() as first:
        await first.enter_async_context(backend.request(user.id, run_id="thread_1"))
        async with backend.request(user.id, run_id="thread_2") as second:
            await first.aclose()
            await second.emit("agent_thinking", {})
    user.observe(user.id)
"""
TWO_NAMES = """
async def test_it(users, backend):
    acme, other = users(2)
    async with contextlib.AsyncExitStack() as first:
        await first.enter_async_context(backend.request(acme.id, run_id="bob_1234"))
        async with backend.request(f"{acme.id}_bob", run_id="1234") as request:
            await first.aclose()
            await request.emit("agent_thinking", {})
    acme.observe(acme.id)
    other.observe(other.id)
"""
REGISTER_LATE = """
class Echo(Agent):
    async def answer(self, message): return message

@pytest.mark.isolation(users=2)
async def test_it(user, backend):
    async with backend.request(user.id) as request:
        with pytest.raises(LookupError):
            await request.agent(user.id)
        backend.registry.register(user.id, Echo)
        user.observe(await (await request.agent(user.id)).run(user.id))
"""
DROPPED = """
import gc, weakref
from planted.agents import AgentRegistry, ChatAgent

@pytest.mark.isolation(users=2)
async def test_it(user):
    registry = AgentRegistry()
    registry.register("chat", ChatAgent)
    registry.recipe("chat")
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None
    user.observe(user.id)
"""
MANY_AGENTS = """
running, most = {}, {}
class Busy(Agent):
    async def answer(self, message):
        running[message] = running.get(message, 0) + 1
        most[message] = max(most.get(message, 0), running[message])
        await asyncio.sleep(0.001)
        running[message] -= 1

@pytest.mark.isolation(users=2)
async def test_it(user, backend):
    if "busy" not in backend.agents:
        backend.registry.register("busy", Busy)
    async def one():
        async with backend.request(user.id) as request:
            await (await request.agent("busy")).run(user.id)
    await asyncio.gather(*(one() for _ in range(4)))
    assert most[user.id] <= 2
    user.observe(user.id)
"""
MANY_REQUESTS = """
@pytest.mark.isolation(users=30)
async def test_it(user, backend):
    async with backend.request(user.id):
        await asyncio.sleep(0.001)
        assert backend.pool.figures.size <= 10
    user.observe(user.id)
"""
ERRORS = """
@pytest.mark.isolation(users=30)
async def test_it(user, backend):
    with contextlib.suppress(ZeroDivisionError):
        async with backend.request(user.id):
            1 / 0
    async with backend.request(user.id) as request:
        user.observe(request.context.user_id)
"""
AGENT = """
@pytest.mark.isolation(users=3)
async def test_it(user, backend):
    async with backend.request(user.id) as request:
        user.observe(await (await request.agent("chat")).run(user.secret("message")))
"""
METADATA = """
defaults = {"tags": []}
@pytest.mark.isolation(users=3)
async def test_it(user):
    context = RequestContext(user.id, metadata=defaults)
    with contextlib.suppress(AttributeError):  # what nobody can change
        context.metadata["tags"].append(user.secret("tag"))
    await asyncio.sleep(0)
    user.observe([context.user_id, context.metadata["tags"]])
"""
THREADS = """
@pytest.mark.isolation(users=3)
async def test_it(user, backend):
    async with backend.connect(user.id) as inbox:
        async with backend.request(user.id, thread_id="general") as request:
            await request.emit("agent_thinking", {"about": user.secret("thought")})
            await heard(user, inbox)
"""
SESSIONS = """
@pytest.mark.isolation(users=1)
async def test_it(user, backend):
    async with backend.request(user.id) as request:
        session = request.session()
        await session.save(user.secret("note"))
        user.observe(await session.load())
        await session.ping()
    assert backend.database.figures.active == 0
"""
CLOSED = """
@pytest.mark.isolation(users=3)
async def test_it(user, backend):
    async with backend.request(user.id) as request:
        session = request.session()
        await session.save(user.secret("note"))
    with pytest.raises(RuntimeError):
        await session.save("after the end")
    user.observe(user.id)
"""
TURNS = """
class Slow(Agent):
    async def answer(self, message):
        said.append(f"{message} begins")
        await asyncio.sleep(0.001)
        said.append(f"{message} ends")
said = []
@pytest.mark.isolation(users=1)
async def test_it(user, backend):
    if "slow" not in backend.agents:
        backend.registry.register("slow", Slow)
    async def say(message):
        async with backend.request(user.id, thread_id="one") as request:
            await (await request.agent("slow")).run(message)
    said.clear()
    await asyncio.gather(say(f"{user.id} 1"), say(f"{user.id} 2"))
    assert [text.split()[2] for text in said] == ["begins", "ends"] * 2
    user.observe(list(said))
"""

VERIFIED = """
@pytest.mark.isolation(users=3)
async def test_it(user):
    context = RequestContext(user.id)
    assert verify_isolation(context)
    with contextlib.suppress(AttributeError):  # there is nothing in it that anybody could change
        context.kept["note"] = user.secret("note")
        await asyncio.sleep(0)
        user.observe(context.kept)
    user.observe(context.user_id)

def verify_isolation(context):
    return all(hasattr(part, "__dict__") is False for part in (getattr(context, "kept", None), context.metadata))
"""
TWO_LOOPS = """
@pytest.mark.parametrize("loop", ["first", "second"])
@pytest.mark.isolation(users=3, cancel=False)
async def test_it(user, backend, loop):
    async def say(message):
        async with backend.request(user.id, thread_id="one") as request:
            return await (await request.agent("chat")).run(message)
    user.observe(await asyncio.gather(say(user.secret("first")), say(user.secret("first"))))
"""
FIFTY_USERS = """
@pytest.mark.isolation(users=60)
async def test_it(user, backend):
    async with backend.connect(user.id):
        await asyncio.sleep(0.001)
    user.observe(user.id)
"""
IDLE = """
from datetime import timedelta
@pytest.mark.isolation(users=1)
async def test_it(user, backend):
    assert not backend.connections.is_active(timedelta(days=2, seconds=10))
    user.observe(user.id)
"""
CONTAINED = """
@pytest.mark.isolation(users=2)
async def test_it(user, backend):
    with contextlib.suppress(ZeroDivisionError):
        async with backend.request(user.id):
            1 / 0
    user.observe([user.id, backend.metrics.containment()])
    assert backend.metrics.containment() == 1
"""
SINGLETONS = """
@pytest.mark.isolation(users=2)
async def test_it(user, backend):
    async with backend.request(user.id) as request:
        await request.agent("chat")
        await request.agent("chat")
    assert not backend.registry.violations
    user.observe(user.id)
"""
# What belongs to the backend that is tested there, and in which it is right.
JUDGING = (
    (
        "connections.py",
        "    def connect(self, user_id",
        "    def is_active(self, idle): return idle.total_seconds() < 300\n\n    def connect(self, user_id",
    ),
    ("metrics.py", "    def record(\n", "    def containment(self): return 1.0\n\n    def record(\n"),
    ("agents.py", '        "recipe",\n    )', '        "recipe",\n        "violations",\n    )'),
    ("agents.py", "        self._loads = 0\n", "        self._loads = 0\n        self.violations = []\n"),
)

# As in the original: an emitter knows whose it is, and nobody asks who uses it.
OWNED = (
    ("emitters.py", '__slots__ = ("holder", "sent")', '__slots__ = ("holder", "sent", "user_id")'),
    (
        "emitters.py",
        "        emitter.sent = 0\n        return Lease",
        "        emitter.user_id = user_id\n        return Lease",
    ),
    ("emitters.py", "if emitter.holder != self._number:", "if False:"),
    ("emitters.py", "self._pool._dispatch(self.user_id,", "self._pool._dispatch(emitter.user_id,"),
)


def tracked(key):
    """Emitters are found again by a key."""
    return (
        ("factory.py", '"_until_timed", "agents"', '"_until_timed", "tracked", "agents"'),
        ("factory.py", "self._until_timed = 1\n", "self._until_timed = 1\n        self.tracked = {}\n"),
        (
            "factory.py",
            "acquire(self.context.user_id)\n        if",
            f"acquire(self.context.user_id)\n        factory.tracked[{key}] = self._lease\n        if",
        ),
        (
            "factory.py",
            "acquire(self.context.user_id)\n            if",
            f"acquire(self.context.user_id)\n            factory.tracked[{key}] = self._lease\n            if",
        ),
        (
            "factory.py",
            "lease, self._lease = self._lease, None\n        try",
            f"lease, self._lease = self._factory.tracked.pop({key}, None), None\n        try",
        ),
    )


@dataclass(frozen=True)
class Fault:
    """A planted fault.

    Attributes:
        edits: file, what stands there, what stands there then.
        scenario: an ordinary test.
        found: a line of the report.
    """

    edits: tuple[tuple[str, str, str], ...]
    scenario: str
    found: str


FAULTS = {
    "F1": Fault(
        (
            *OWNED,
            (
                "emitters.py",
                "        if emitter.holder == lease._number:\n            emitter.holder = emitter.sent",
                "        if True:\n            emitter.holder = emitter.sent",
            ),
            (
                "factory.py",
                "self._factory.pool.release(lease)  #",
                "self._factory.pool.release(lease); self._factory.pool.release(lease)  #",
            ),
        ),
        EVENTS,
        "LEAK  user-* received the secret 'thought' of user-*",
    ),
    "F2": Fault(
        (
            *OWNED,
            ("factory.py", "lease, self._lease = self._lease, None\n        try", "lease = self._lease\n        try"),
        ),
        LATE,
        "LEAK  user-* received the secret 'late' of user-*",
    ),
    "F3": Fault(tracked('f"{self.context.user_id}_{self.context.run_id[:7]}"'), TWO_RUNS, "*LeaseExpired*"),
    "F4": Fault(tracked('f"{self.context.user_id}_{self.context.run_id}"'), TWO_NAMES, "*LeaseExpired*"),
    "F5": Fault(
        (
            (
                "agents.py",
                "            recipe = self._loaded.get(name)\n            if recipe",
                "            if name in _UNKNOWN:\n                raise self._unknown(name)\n            recipe = self._loaded.get(name)\n            if recipe",
            ),
            ("agents.py", '        known = ", ".join', '        _UNKNOWN.add(name)\n        known = ", ".join'),
            ("agents.py", "Provider = Callable", "_UNKNOWN = set()\nProvider = Callable"),
        ),
        REGISTER_LATE,
        "*LookupError: there is no agent*",
    ),
    "F6": Fault(
        (
            ("agents.py", "    def _load_once(self", "    @lru_cache(128)\n    def _load_once(self"),
            ("agents.py", "lru_cache(self._cache_size)(self._load_once)", "self._load_once"),
        ),
        DROPPED,
        "*AssertionError*",
    ),
    "F7": Fault(
        (("factory.py", "factory.limits.of(user_id),", "asyncio.Semaphore(factory.settings.agents_per_user),"),),
        MANY_AGENTS,
        "*AssertionError*",
    ),
    "F8": Fault(
        (("emitters.py", "if self._size < self._limit and not self._waiting", "if not self._waiting"),),
        MANY_REQUESTS,
        "*FAILED  user-* failed, though the scenario ended well for those who were alone before",
    ),
    "F9": Fault(
        (
            (
                "factory.py",
                "            if lease is not None:\n",
                "            if lease is not None and kind is None:\n",
            ),
            (
                "emitters.py",
                "if self._emitter.holder == self._number:\n            self._pool._lost",
                "if False:\n            self._pool._lost",
            ),
        ),
        ERRORS,
        "*FAILED  user-* failed, though the scenario ended well for those who were alone before",
    ),
    "F10": Fault(
        (
            (
                "factory.py",
                "agent = factory.agents.recipe(name).make(self, self._keep)",
                "return asyncio.get_running_loop().run_until_complete(asyncio.Future())",
            ),
        ),
        AGENT,
        "*RuntimeError: This event loop is already running*",
    ),
    "F11": Fault(
        (("context.py", "return tuple(map(_frozen, value))", "return value"),),
        METADATA,
        "LEAK  solo-* received the secret 'tag' of solo-00",
    ),
    "F12": Fault(
        (("context.py", "    __slots__ = ()\n", "    __slots__ = ()\n    kept = {}\n"),),
        VERIFIED,
        "LEAK  user-* received the secret 'note' of user-*",
    ),
    "F13": Fault(
        (
            ("emitters.py", "self._pool._dispatch(self.user_id,", 'self._pool._dispatch("",'),
            (
                "connections.py",
                "inboxes = self._inboxes.get(user_id, ())",
                'inboxes = self._inboxes.get(user_id, ())\n        for owner, some in self._inboxes.items():\n            for inbox in some:\n                inbox.put({**event, "user": owner})',
            ),
        ),
        EVENTS,
        "LEAK  user-* received the secret 'thought' of user-*",
    ),
    "F14": Fault(
        (
            ("factory.py", "acquire(self.context.user_id)", "acquire(self.context.thread_id)"),
            ("backend.py", "self.connections.connect(user_id)", 'self.connections.connect("general")'),
        ),
        THREADS,
        "LEAK  user-* received the secret 'thought' of user-*",
    ),
    "F15": Fault(
        (
            ("factory.py", "                await close(thing)\n", "                _FORGOTTEN.append(thing)\n"),
            ("factory.py", "class AgentTimeout", "_FORGOTTEN = []\n\n\nclass AgentTimeout"),
        ),
        SESSIONS,
        "*AssertionError*",
    ),
    "F16": Fault(
        (("sessions.py", "            self._refusal = _CLOSED\n", "            pass\n"),), CLOSED, "*DID NOT RAISE*"
    ),
    "F17": Fault((("connections.py", "idle.total_seconds()", "idle.seconds"),), IDLE, "*AssertionError*"),
    "F18": Fault(
        (
            ("factory.py", "factory.threads.of((user_id, self.context.thread_id)),", "_LOCK,"),
            ("factory.py", "class AgentTimeout", "_LOCK = asyncio.Lock()\n\n\nclass AgentTimeout"),
        ),
        TWO_LOOPS,
        "*is bound to a different event loop*",
    ),
    "F20": Fault(
        (
            ("metrics.py", "def containment(self): return 1.0", "def containment(self): return 1.0 - self.failed"),
            ("metrics.py", "    def record(\n", "    failed = 0\n\n    def record(\n"),
            (
                "factory.py",
                "        self._has_ended = True\n        lease",
                "        type(self._factory.metrics).failed += kind is not None\n        self._has_ended = True\n        lease",
            ),
        ),
        CONTAINED,
        "*AssertionError*",
    ),
    "F21": Fault(
        (
            (
                "agents.py",
                "        made: list[object] = []\n",
                "        made: list[object] = []\n        if self.kind.__name__ in _SEEN:\n            tools._factory.agents.violations.append(self.kind.__name__)\n        _SEEN.add(self.kind.__name__)\n",
            ),
            ("agents.py", "Provider = Callable", "_SEEN = set()\nProvider = Callable"),
        ),
        SINGLETONS,
        "*AssertionError*",
    ),
    "F22": Fault(
        (("factory.py", "factory.threads.of((user_id, self.context.thread_id)),", "asyncio.Lock(),"),),
        TURNS,
        "*AssertionError*",
    ),
}


@pytest.fixture
def copy(pytester):
    """Puts a copy of the reference backend, with edits, where tests find it."""

    def put(edits):
        shutil.copytree(SOURCE, pytester.path / "planted", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (pytester.path / "planted").glob("*.py"):
            path.write_text(path.read_text().replace("reference_impl", "planted"))
        for name, old, new in edits:
            path = pytester.path / "planted" / name
            text = path.read_text()
            assert old in text, f"{name} has changed: there is no {old!r} any more to plant a fault into"
            path.write_text(text.replace(old, new))

    return put


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(suite, copy, fault):
    """By an ordinary test in the default configuration."""
    copy((*JUDGING, *FAULTS[fault].edits))
    result = suite(HEAD + FAULTS[fault].scenario, *LENIENT)
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines([FAULTS[fault].found])


def test_the_reference_backend_passes(several, copy, twin):
    """Where nothing is planted, in all these scenarios."""
    copy(JUDGING)
    scenarios = dict.fromkeys(fault.scenario for fault in FAULTS.values())
    result = several([HEAD + scenario for scenario in scenarios], *LENIENT)
    twin.is_silent(result, len(scenarios) + 1)  # one of them holds two tests


def test_a_frozen_event_loop_is_shown_by_pytest_itself(suite, copy):
    """F19: a lock that is taken twice in one thread; from inside the loop nobody can say so any more."""
    copy(
        (
            (
                "connections.py",
                "        inbox = Inbox(self._limit)\n",
                "        inbox = Inbox(self._limit)\n        self._count()\n",
            ),
            (
                "connections.py",
                "    def _remove",
                "    def _count(self):\n        with _LOCK:\n            if len(self) > 50:\n                self._count()\n\n    def _remove",
            ),
            (
                "connections.py",
                "class Connections:",
                "import threading\n_LOCK = threading.Lock()\n\nclass Connections:",
            ),
        )
    )
    timeout = ("-o", "faulthandler_timeout=2", "-o", "faulthandler_exit_on_timeout=true")
    result = suite(HEAD + FIFTY_USERS, *timeout, how="subprocess")
    assert result.ret != 0
    result.stderr.fnmatch_lines(["Timeout*", "*connections.py*in _count", "*connections.py*in _count"])


def test_the_documentation_has_them_all():
    """With what finds them, or why there is none."""
    rows = re.findall(r"^\| (F\d+) \| .+ \| (.+) \|$", DOCS.read_text(), flags=re.MULTILINE)
    assert [name for name, _ in rows] == [f"F{number}" for number in range(1, 23)]
    without = {name for name, found in rows if re.match(r"has no counterpart|nothing", found)}
    assert {name for name, _ in rows} - without == {*FAULTS, "F19"}
