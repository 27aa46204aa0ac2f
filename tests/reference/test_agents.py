"""Agents are made anew for every request, and found by name whatever is registered when."""

import asyncio
import gc
import sys
import textwrap
import threading
import time
import weakref
from contextlib import asynccontextmanager

import pytest

from reference_impl.agents import Agent, AgentRegistry, ChatAgent
from reference_impl.context import RequestContext


class Tools:
    """What an agent may use, without a backend."""

    def __init__(self, user_id="alice"):
        self.context = RequestContext(user_id)
        self.events = []

    async def emit(self, kind, data):
        self.events.append((kind, data))

    @asynccontextmanager
    async def turn(self, agent):
        yield


class Echo(Agent):
    async def answer(self, message):
        return message


@pytest.fixture
def registry():
    return AgentRegistry()


def test_every_request_gets_an_agent_of_its_own(registry):
    """The class is kept, the agent never."""
    registry.register("echo", Echo)
    one, two = (registry.recipe("echo").make(Tools()) for _ in range(2))
    assert (type(one), one is two) == (Echo, False)


def test_an_unknown_name_is_answered_with_those_that_there_are(registry):
    """Aliases too."""
    with pytest.raises(LookupError, match="no agent 'chat'; there are none"):
        registry.recipe("chat")
    registry.register("echo", Echo, aliases=("parrot",))
    with pytest.raises(LookupError, match="no agent 'chat'; there are echo, parrot"):
        registry.recipe("chat")


def test_what_was_unknown_is_found_once_it_is_registered(registry):
    """A miss is not kept."""
    with pytest.raises(LookupError):
        registry.recipe("echo")
    registry.register("echo", Echo)
    assert registry.recipe("echo").kind is Echo


def test_an_alias_is_as_good_as_the_name(registry):
    """And goes with it."""
    registry.register("echo", Echo, aliases=("parrot",))
    assert registry.recipe("parrot").kind is Echo
    assert registry.names == ("echo",)
    registry.unregister("echo")
    for name in ("echo", "parrot"):
        with pytest.raises(LookupError):
            registry.recipe(name)


def test_what_is_unregistered_and_registered_anew_is_the_new_one(registry):
    """Nothing of the old one is kept."""
    registry.register("echo", Echo)
    registry.recipe("echo")
    registry.unregister("echo")
    registry.register("echo", ChatAgent)
    assert registry.recipe("echo").kind is ChatAgent
    with pytest.raises(LookupError):
        registry.unregister("nobody")


def test_a_name_that_is_taken_is_refused(registry):
    """By another class, or as an alias."""
    registry.register("echo", Echo, aliases=("parrot",))
    registry.register("echo", Echo)
    with pytest.raises(ValueError, match="the agent 'echo' is Echo already"):
        registry.register("echo", ChatAgent)
    with pytest.raises(ValueError, match="the agent 'parrot' is Echo already"):
        registry.register("parrot", ChatAgent)


@pytest.mark.parametrize("kind", [int, "no class", "mod:", "a:b:c", 3])
def test_what_is_no_agent_is_refused(registry, kind):
    """When it is registered."""
    with pytest.raises((TypeError, ValueError)):
        registry.register("it", kind)


def test_a_class_may_be_named_and_is_imported_when_it_is_first_asked_for(registry, tmp_path, monkeypatch):
    """A hundred agents do not slow down the start."""
    (tmp_path / "late_agents.py").write_text(
        textwrap.dedent(
            """
            from reference_impl.agents import Agent
            class Late(Agent): pass
            class Other: pass
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry.register("late", "late_agents:Late")
    registry.register("other", "late_agents:Other")
    assert "late_agents" not in sys.modules
    assert registry.recipe("late").kind.__name__ == "Late"
    with pytest.raises(TypeError, match="which is no subclass of Agent"):
        registry.recipe("other")
    del sys.modules["late_agents"]


def test_a_constructor_takes_dependencies_by_name(registry):
    """Each is made for the agent's own request."""

    class Writer(Agent):
        def __init__(self, tools, store, style="plain", clock=None, *, pen):
            super().__init__(tools)
            self.has = (store, style, clock, pen)

    registry.provide("store", lambda tools: {"of": tools.context.user_id})
    registry.provide("clock", lambda tools: "a clock")
    registry.provide("pen", lambda tools: f"the pen of {tools.context.user_id}")
    registry.register("writer", Writer)
    alice, bob = (registry.recipe("writer").make(Tools(user)) for user in ("alice", "bob"))
    assert alice.has == ({"of": "alice"}, "plain", "a clock", "the pen of alice")
    assert bob.has == ({"of": "bob"}, "plain", "a clock", "the pen of bob")


def test_a_dependency_that_nobody_provides_is_named(registry):
    """With what to write; and once it is provided, the agent is found."""

    class Writer(Agent):
        def __init__(self, tools, store):
            super().__init__(tools)

    registry.register("writer", Writer)
    with pytest.raises(LookupError, match=r"the agent 'writer' needs 'store', which nobody provides: registry.provide"):
        registry.recipe("writer")
    registry.provide("store", lambda tools: {})
    assert registry.recipe("writer").kind is Writer


def test_hits_are_counted_as_hits(registry):
    """Five calls: one miss, four hits."""
    registry.register("echo", Echo)
    for _ in range(5):
        registry.recipe("echo")
    figures = registry.figures
    assert (figures.hits, figures.misses, figures.loads, figures.size) == (4, 1, 1, 1)


def test_the_least_recently_used_name_goes_first():
    """The cache is bounded."""
    registry = AgentRegistry(cache_size=2)
    for name in "abc":
        registry.register(name, Echo)
    for name in ("a", "b", "a", "c", "a"):
        registry.recipe(name)
    assert (registry.figures.hits, registry.figures.size) == (2, 2)


def test_without_a_cache_everything_is_worked_out_anew():
    """To compare with."""
    registry = AgentRegistry(cache_size=0)
    registry.register("echo", Echo)
    for _ in range(3):
        registry.recipe("echo")
    assert (registry.figures.hits, registry.figures.loads) == (0, 3)


def test_a_stampede_of_threads_loads_once(registry):
    """Eight threads ask for a name that nobody has asked for before."""

    class Slow(Agent):
        pass

    asked = []

    class Signature:
        def __get__(self, instance, owner):
            asked.append(1)
            time.sleep(0.01)
            raise AttributeError

    Slow.__signature__ = Signature()
    registry.register("slow", Slow)
    barrier, found = threading.Barrier(8), []

    def ask():
        barrier.wait()
        found.append(registry.recipe("slow").kind)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, registry.figures.loads) == ([Slow] * 8, 1)


def test_a_registry_that_is_dropped_is_collected():
    """A cache that is bound to a class would hold it for ever."""
    registry = AgentRegistry()
    registry.register("echo", Echo)
    registry.recipe("echo")
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None


@pytest.mark.asyncio
async def test_an_agent_answers_and_an_error_is_told_by_its_kind_only():
    """What an exception says may quote anybody."""

    class Broken(Agent):
        async def answer(self, message):
            raise KeyError("a secret")

    assert await Echo(Tools()).run("hi") == "hi"
    tools = Tools()
    with pytest.raises(KeyError):
        await Broken(tools).run("hi")
    assert tools.events == [("error", {"error": "KeyError"})]


@pytest.mark.asyncio
async def test_an_agent_that_is_cancelled_says_nothing():
    """Nobody listens any more."""

    class Waiting(Agent):
        async def answer(self, message):
            await asyncio.sleep(60)

    tools = Tools()
    task = asyncio.create_task(Waiting(tools).run("hi"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (task.cancelled(), tools.events) == (True, [])


@pytest.mark.asyncio
async def test_an_agent_without_an_answer_says_so():
    """It is the subclass that answers."""
    with pytest.raises(NotImplementedError, match="Agent has no answer"):
        await Agent(Tools()).run("x")
