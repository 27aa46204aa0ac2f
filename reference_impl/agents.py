"""Agents: a new one for every request, made from a class that is found by name."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from operator import call
from typing import Any, Protocol

from reference_impl.context import RequestContext


class Session(Protocol):
    """What an agent needs of a database session."""

    async def save(self, text: str) -> None:
        """Store a text of the request's user."""

    async def load(self) -> Any:
        """Every text of the request's user, oldest first."""


class Tools(Protocol):
    """What an agent may use of the request that it works for."""

    @property
    def context(self) -> RequestContext:
        """Who asks."""

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell the user about progress."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """A database session of the user."""

    async def agent(self, name: str) -> Agent:
        """Another agent, bound to the same request; when it is run it takes no turn of its own."""

    def turn(self, agent: str) -> AbstractAsyncContextManager[None]:
        """The right to run: within the user's limit, and for a limited time."""


class Agent:
    """Does the work of one request; it is bound to it for life.

    A subclass has ``answer()``. Besides ``tools`` its constructor may take dependencies by name
    (``AgentRegistry.provide``), each made anew for every agent.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def run(self, message: str) -> str:
        """Answer a message of the request's user, within the user's limits.

        Raises:
            TimeoutError: it took too long, or its turn never came.
        """
        try:
            async with self._tools.turn(type(self).__name__):
                return await self.answer(message)
        except Exception as error:
            # The kind of error, never its text: that may quote anything.
            await self._tools.emit("error", {"error": type(error).__name__})
            raise

    async def answer(self, message: str) -> str:
        """What the agent does."""
        raise NotImplementedError(f"{type(self).__name__} has no answer()")


class ChatAgent(Agent):
    """Keeps what the user says, and answers with all that this user has said."""

    async def answer(self, message: str) -> str:
        """Store the message, and answer with the whole conversation."""
        user_id, emit = self._tools.context.user_id, self._tools.emit
        await emit("agent_started", {"user": user_id})
        await emit("agent_thinking", {"about": message})
        async with self._tools.session() as session:
            await emit("tool_executing", {"tool": "notes"})
            await session.save(message)
            notes = await session.load()
        await emit("tool_completed", {"tool": "notes", "notes": len(notes)})
        answer = f"{user_id} has said: {'; '.join(notes)}"
        await emit("agent_completed", {"answer": answer})
        return answer


Provider = Callable[[Tools], object]
_KINDS_KEPT = 64


@dataclass(frozen=True, slots=True)
class Recipe:
    """How agents of one kind are made.

    Attributes:
        kind: the class.
        inline: what makes the arguments that follow ``tools``, in their order.
        named: the same for those that are taken by keyword only, or after one that has a default.
        shared: of the providers those whose things belong to all, and are not closed with a request.
        plain: kinds of things that have none, as far as they have been met.
        closed: kinds of things that have one.
        providers: of all arguments in their order, and None for the agent itself.
    """

    kind: type[Agent]
    inline: tuple[Provider, ...] = ()
    named: tuple[tuple[str, Provider], ...] = ()
    shared: frozenset[Provider] = frozenset()
    plain: set[type] = field(default_factory=set, compare=False)
    closed: set[type] = field(default_factory=set, compare=False)
    providers: tuple[Provider | None, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        providers = (*self.inline, *(provider for _, provider in self.named), None)
        object.__setattr__(self, "providers", providers)

    def make(self, tools: Tools, keep: Callable[[Any], None] = lambda _: None) -> Agent:
        """A new agent, bound to one request.

        Args:
            tools: of the request.
            keep: is told of everything that has to be closed with the request: dependencies, and then the agent, also
                if making one of them fails.
        """
        made: list[object] = []
        named: dict[str, Any] = {}
        try:
            made += map(call, self.inline, repeat(tools))
            if self.named:
                for name, provider in self.named:
                    named[name] = provider(tools)
            agent = self.kind(tools, *made, **named) if named else self.kind(tools, *made)
        except BaseException:
            self._look([*made, *named.values()], keep)
            raise
        made += named.values()
        made.append(agent)
        if not self.plain.issuperset(map(type, made)):
            self._look(made, keep)
        return agent

    def _look(self, made: list[object], keep: Callable[[object], None]) -> None:
        """Find what can be closed; which kinds can is remembered, for to ask takes longer than to make most things."""
        plain, closed, shared = self.plain, self.closed, self.shared
        for thing, provider in zip(made, self.providers, strict=False):  # fewer things, if making one failed
            kind = type(thing)
            if kind in plain:
                continue
            if kind not in closed:
                known = closed if _can_be_closed(kind) else plain
                if len(known) < _KINDS_KEPT:
                    known.add(kind)
                if known is plain:
                    continue
            if not shared or provider not in shared:
                keep(thing)


def _can_be_closed(kind: type) -> bool:
    return hasattr(kind, "aclose") or hasattr(kind, "close")


async def close(thing: Any) -> None:
    """Close what an agent was made with: with ``aclose()``, or else with ``close()``, sync or async."""
    closing = thing.aclose() if hasattr(thing, "aclose") else thing.close()
    if closing is not None and inspect.isawaitable(closing):
        await closing


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """How the class cache does.

    Attributes:
        hits: names that were found in it.
        misses: names that were not.
        loads: recipes that were worked out.
        size: recipes in it.
    """

    hits: int
    misses: int
    loads: int
    size: int


class AgentRegistry:
    """Finds out by name how agents are made; holds no agent, and nothing of any request.

    What was found is cached, the least recently used going first. A name that is unknown is not: it may be registered
    later. Any change empties the cache, by putting a new one in its place, so that a load that was under way
    meanwhile cannot put the old answer into the new cache.

    Args:
        cache_size: names that are kept; 0 works everything out anew every time.

    Attributes:
        recipe: from a name or an alias to the recipe; raises LookupError for an unknown one.
    """

    __slots__ = (
        "__weakref__",
        "_aliases",
        "_cache_size",
        "_kinds",
        "_loaded",
        "_loads",
        "_lock",
        "_providers",
        "_shared",
        "recipe",
    )

    def __init__(self, cache_size: int = 128) -> None:
        self._cache_size = cache_size
        self._kinds: dict[str, type[Agent] | str] = {}
        self._aliases: dict[str, str] = {}
        self._providers: dict[str, Provider] = {}
        self._shared: set[str] = set()
        self._lock = threading.RLock()  # a module that is imported here may register agents itself
        self._loaded: dict[str, Recipe] = {}
        self._loads = 0
        self.recipe: Callable[[str], Recipe] = self._load
        self._invalidate()

    def provide(self, name: str, provider: Provider, *, shared: bool = False) -> None:
        """Say what makes a dependency that constructors take by this name.

        What has an ``aclose()`` or a ``close()`` is closed with the request, the last one first, as agents are.

        Args:
            name: of the parameter.
            provider: is called with the request's tools, once for every agent.
            shared: what it hands out belongs to many requests, and none of them closes it.
        """
        with self._lock:
            self._providers[name] = provider
            (self._shared.add if shared else self._shared.discard)(name)
            self._invalidate()

    def register(self, name: str, kind: type[Agent] | str, *, aliases: tuple[str, ...] = ()) -> None:
        """Make a class known under a name, at any time.

        Args:
            name: what requests ask for.
            kind: the class, or ``pkg.mod:Class``, which is imported when it is first asked for.
            aliases: further names.

        Raises:
            TypeError: it is no kind of agent.
            ValueError: a name is taken.
        """
        if not isinstance(kind, str):
            _refuse_stranger(name, kind)
        elif not all(part.isidentifier() for part in kind.replace(":", ".").split(".")) or kind.count(":") != 1:
            raise ValueError(f"{kind!r} does not name a class: 'pkg.mod:Class'")
        with self._lock:
            for new in (name, *aliases):
                known = self._kinds.get(self._aliases.get(new, new))
                if known is not None and (known is not kind or new != name):
                    raise ValueError(f"the agent {new!r} is {getattr(known, '__name__', known)} already")
            self._kinds[name] = kind
            self._aliases.update(dict.fromkeys(aliases, name))
            self._invalidate()

    def unregister(self, name: str) -> None:
        """Forget a name and its aliases; requests that come later do not find it.

        Raises:
            LookupError: there is none.
        """
        with self._lock:
            if name not in self._kinds:
                raise self._unknown(name)
            del self._kinds[name]
            self._aliases = {alias: to for alias, to in self._aliases.items() if to != name}
            self._invalidate()

    @property
    def names(self) -> tuple[str, ...]:
        """Every known name, aliases apart."""
        return tuple(self._kinds)

    @property
    def figures(self) -> CacheFigures:
        """How the cache does; its hits and misses count from the last change of the registry."""
        info = getattr(self.recipe, "cache_info", None)
        if info is None:
            return CacheFigures(0, self._loads, self._loads, 0)
        hits, misses, _, size = info()
        return CacheFigures(hits, misses, self._loads, size)

    def _invalidate(self) -> None:
        self._loaded = {}
        if self._cache_size:
            self.recipe = lru_cache(self._cache_size)(self._load_once)

    def _load_once(self, name: str) -> Recipe:
        """The cache alone would let every thread of a stampede load."""
        with self._lock:
            recipe = self._loaded.get(name)
            if recipe is None:
                recipe = self._work_out(name)
                while len(self._loaded) >= self._cache_size:
                    del self._loaded[next(iter(self._loaded))]
                self._loaded[name] = recipe
            return recipe

    def _load(self, name: str) -> Recipe:
        with self._lock:
            return self._work_out(name)

    def _work_out(self, name: str) -> Recipe:
        kind = self._kinds.get(self._aliases.get(name, name))
        if kind is None:
            raise self._unknown(name)
        self._loads += 1
        if isinstance(kind, str):
            kind = _import(name, kind)
        inline: list[Provider] = []
        named: list[tuple[str, Provider]] = []
        gap = False
        for parameter in list(inspect.signature(kind).parameters.values())[1:]:
            provider = self._providers.get(parameter.name)
            gap = gap or provider is None or parameter.kind is parameter.KEYWORD_ONLY
            if provider is not None and gap:
                named.append((parameter.name, provider))
            elif provider is not None:
                inline.append(provider)
            elif parameter.default is parameter.empty and parameter.kind not in _MANY:
                raise LookupError(
                    f"the agent {name!r} needs {parameter.name!r}, which nobody provides: "
                    f"registry.provide({parameter.name!r}, lambda tools: …)"
                )
        shared = frozenset(self._providers[name] for name in self._shared)
        return Recipe(kind, tuple(inline), tuple(named), shared)

    def _unknown(self, name: str) -> LookupError:
        known = ", ".join(sorted({*self._kinds, *self._aliases})) or "none"
        return LookupError(f"there is no agent {name!r}; there are {known}")


_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _refuse_stranger(name: str, kind: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Agent)):
        raise TypeError(f"the agent {name!r} is to be {kind!r}, which is no subclass of Agent")


def _import(name: str, target: str) -> type[Agent]:
    module, _, path = target.partition(":")
    kind: Any = importlib.import_module(module)
    for part in path.split("."):
        kind = getattr(kind, part)
    _refuse_stranger(name, kind)
    found: type[Agent] = kind
    return found
