"""What a test's markers ask for, as one validated plan; and what is wrong with them, before anything runs."""

from __future__ import annotations

import inspect
import re
import shlex
import unittest
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import pytest

from pytest_isolation.cuts import read_cuts
from pytest_isolation.errors import MarkerError
from pytest_isolation.marker_values import positive, spelt, unknown
from pytest_isolation.memory_marker import read_memory, refuse_beside_memory
from pytest_isolation.model import Fault
from pytest_isolation.settings import Settings
from pytest_isolation.verdicts import Budget, MemoryBudget

LATENCY_KEYWORDS = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms", "span", "concurrency", "rate", "users")
ISOLATION_KEYWORDS = ("users", "anonymous", "cancel", "faults", "explore", "heap")

# More in flight, and it is the test that is measured.
MOST_AT_ONCE = 1000
MOST_USERS = 100_000
# With each more there are hundreds of times as many orders; three are not exhausted but by the smallest of scenarios.
MOST_DEVIATIONS = 3
# Plugins, configuration, and what is tested; where a test is and what is shown of it is no matter.
_CARRIED = (
    *("-p", "-c", "-o", "-W", "--config-file", "--override-ini", "--rootdir", "--confcutdir", "--import-mode"),
    *("--asyncio-mode", "--isolation-backend", "--isolation-max-seconds", "--isolation-max-samples"),
)
_CARRIED_FLAGS = ("--isolation-allow-remote",)
_SHORT = re.compile(r"-[pcoW]\S")
_QUANTILE = re.compile(r"p([1-9]\d?|99\d*[1-9])_ms", re.ASCII)


@dataclass(frozen=True, slots=True)
class Load:
    """How runs of a body arrive.

    Attributes:
        concurrency: so many in flight at once, each followed by the next; None if that is not asked for.
        rate: arrivals a second, fixed beforehand; of each user if there are some; None if that is not asked for.
        users: so many users with one run at a time each; needs a rate.
    """

    concurrency: int | None = None
    rate: float | None = None
    users: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with a test.

    Attributes:
        nodeid: the test.
        command: runs it alone, from the folder in which this session was started.
        budgets: what its latency is judged by, on the body and on spans.
        load: how runs of the body arrive; one after another if it is empty.
        users: how many play it as a scenario; None if it is none.
        cancel: cut users at every suspension point; None does so as far as the time for sampling lasts.
        faults: what is raised at every suspension point that waits for I/O, or lets the timers of a run expire wherever
            there are any.
        anonymous: which share of them has no credentials, from 0 to 1.
        memory: what its body may hold; None does not judge that.
        explore: play every order of steps with so many deviations too; None plays none.
        heap: whatever keeps secrets in memory after the crowd is a finding; False does not look, None knows stores.
    """

    nodeid: str
    command: str
    budgets: tuple[Budget, ...] = ()
    load: Load = Load()
    users: int | None = None
    cancel: bool | None = None
    faults: tuple[Fault, ...] = ()
    anonymous: float = 0.0
    memory: MemoryBudget | None = None
    explore: int | None = None
    heap: bool | None = None

    @property
    def is_judged(self) -> bool:
        """Something is to be measured, so that green without a measurement would be a lie."""
        return bool(self.budgets) or self.users is not None or self.memory is not None

    @property
    def is_comparable(self) -> bool:
        """Its body is run by itself, again and again, so that another version of it can run in turn."""
        return bool(self.budgets) and self.users is None and self.load == Load()


def read_plan(item: pytest.Item, settings: Settings) -> Plan:
    """The plan of a test; one without budgets and users if no marker asks for anything.

    Args:
        item: the test.
        settings: what the command line overrides.

    Raises:
        MarkerError: a marker is misspelt, impossible, or stands where it cannot work.
    """
    latency = list(item.iter_markers("latency"))
    isolation = list(item.iter_markers("isolation"))
    plan = Plan(item.nodeid, command(item), memory=_read_memory(item, latency, isolation))
    if not latency and not isolation:
        return plan
    budgets, load = _read_latency(latency)
    # All of them are read, so that a misspelt one is refused also where a closer one wins.
    users = next(iter([_read_isolation(mark, settings) for mark in isolation]), None)
    _refuse_impossible_place(item, "isolation" if isolation else "latency")
    if isolation:
        _refuse_without_user(item)
    _refuse_impossible_load(load, item, bool(isolation))
    if not isolation:
        return replace(plan, budgets=budgets, load=load)
    cancel, faults = _read_cuts(isolation[0], item)
    share = read_share("isolation", isolation[0].kwargs.get("anonymous", 0.0))
    plan = replace(plan, budgets=budgets, load=load, users=users, anonymous=share)
    explore, heap = _read_explore(isolation[0], item), _heap(isolation[0])
    return replace(plan, cancel=cancel, faults=faults, explore=explore, heap=heap)


def command(item: pytest.Item) -> str:
    """What to type to run a test alone, against the same backend."""
    _, colons, inside = item.nodeid.partition("::")
    module, start = getattr(item, "module", None), item.config.invocation_params.dir
    if item.path.is_relative_to(start):
        words = [f"{item.path.relative_to(start)}{colons}{inside}"]
    elif module is not None and item.config.getoption("pyargs", default=False):
        words = ["--pyargs", f"{module.__name__}{colons}{inside}"]
    else:
        words = [f"{item.path}{colons}{inside}"]
    return shlex.join(["pytest", *words, *_carried(item.config.invocation_params.args)])


def _carried(args: Sequence[str]) -> Iterator[str]:
    """The options of this session without which a test would not run in the same way."""
    rest = iter(args)
    for word in rest:
        if word in _CARRIED:
            yield from (word, *islice(rest, 1))
        elif (
            word in _CARRIED_FLAGS or word.startswith(tuple(f"{option}=" for option in _CARRIED)) or _SHORT.match(word)
        ):
            yield word


def _read_latency(marks: Iterable[pytest.Mark]) -> tuple[tuple[Budget, ...], Load]:
    """The budgets of all markers, the closest winning for each quantile of a span, and the closest load."""
    closest: dict[tuple[str | None, float], Budget] = {}
    loads: list[Load] = []
    for mark in marks:
        budgets, load = _read_one_latency(mark)
        for budget in budgets:
            closest.setdefault((budget.span, budget.quantile), budget)
        loads += [] if load == Load() else [load]
    return tuple(closest.values()), loads[0] if loads else Load()


def _read_one_latency(mark: pytest.Mark) -> tuple[tuple[Budget, ...], Load]:
    if mark.args:
        raise MarkerError(f"latency({mark.args[0]!r}) does not say which quantile: latency(p95_ms={mark.args[0]!r})")
    span, load, limits = None, Load(), {}
    for keyword, value in mark.kwargs.items():
        if keyword == "span":
            if not isinstance(value, str) or not value:
                raise MarkerError(f"latency(span={value!r}): a span is named by a text: span='agent.create'")
            span = value
        elif keyword == "rate":
            load = replace(load, rate=positive("latency", keyword, value, "arrivals a second"))
        elif keyword in ("concurrency", "users"):
            load = replace(load, **{keyword: _several(keyword, value)})
        else:
            limits[_quantile(keyword)] = (keyword, positive("latency", keyword, value, "milliseconds"))
    if not limits:
        raise MarkerError(f"latency({spelt(mark)}) has no budget: say what it must keep, as in latency(p95_ms=10)")
    _refuse_contradiction(limits)
    return tuple(Budget(q, limits[q][1] / 1e3, span) for q in sorted(limits)), load


def _quantile(keyword: str) -> float:
    if keyword == "max_ms":
        return 1.0
    match = _QUANTILE.fullmatch(keyword)
    if match is None:
        if re.fullmatch(r"p\d+_ms", keyword):
            raise MarkerError(
                f"latency({keyword}=…): there is no such quantile; from p1_ms to p99_ms, p999_ms for 99.9 %, and max_ms"
            )
        raise unknown("latency", keyword, LATENCY_KEYWORDS)
    digits = match[1]
    # p5 is 0.05, p95 is 0.95, p999 is 0.999 and p9999 is 0.9999.
    return int(digits) / (100 if len(digits) <= 2 else 10 ** len(digits))


def _refuse_contradiction(limits: Mapping[float, tuple[str, float]]) -> None:
    ordered = sorted(limits)
    for low, high in pairwise(ordered):
        (name, limit), (higher_name, higher_limit) = limits[low], limits[high]
        if limit > higher_limit:
            raise MarkerError(
                f"latency({name}={limit:g}, {higher_name}={higher_limit:g}): the first can never be missed while the "
                f"second holds; {name} must be the smaller one"
            )


def _read_isolation(mark: pytest.Mark, settings: Settings) -> int:
    if mark.args:
        raise MarkerError(f"isolation({mark.args[0]!r}) takes keywords: isolation(users={mark.args[0]!r})")
    for keyword in mark.kwargs:
        if keyword not in ISOLATION_KEYWORDS:
            raise unknown("isolation", keyword, ISOLATION_KEYWORDS)
    users = mark.kwargs.get("users", settings.default_users)
    if isinstance(users, bool) or not isinstance(users, int) or users < 1:
        raise MarkerError(f"isolation(users={users!r}): a whole number ≥ 1 of users plays, as in isolation(users=100)")
    if users > MOST_USERS:
        raise MarkerError(
            f"isolation(users={users}): at most {MOST_USERS:,} users can play, each with secrets of its own"
        )
    return settings.users or users


def _read_cuts(mark: pytest.Mark, item: pytest.Item) -> tuple[bool | None, tuple[Fault, ...]]:
    """Whether users are cancelled, and what fails."""
    cancel, faults = read_cuts("isolation", mark.kwargs.get("cancel"), mark.kwargs.get("faults", False))
    if (cancel or faults) and not inspect.iscoroutinefunction(getattr(item, "obj", None)):
        what = "cancel=True" if cancel else "faults=…"
        raise MarkerError(f"isolation({what}) needs an async test: a sync body gives up control nowhere")
    return cancel, faults


def read_share(where: str, share: object) -> float:
    """Which share of a crowd has no credentials.

    Raises:
        MarkerError: it is none.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise MarkerError(
            f"{where}(anonymous={share!r}): it takes the share of the crowd that has no credentials, from 0 to 1, as "
            "in anonymous=0.25"
        )
    return float(share)


def _read_memory(item: pytest.Item, *others: Sequence[pytest.Mark]) -> MemoryBudget | None:
    budget = read_memory(item.iter_markers("memory"))
    if budget is not None:
        _refuse_impossible_place(item, "memory")
        assert isinstance(item, pytest.Function)
        homes = {name: defs[-1].func.__module__ for name, defs in fixture_definitions(item).items()}
        known = [name for name, home in homes.items() if home.startswith(("pytest_isolation.", "pytest_benchmark."))]
        refuse_beside_memory((marks[0].name for marks in others if marks), known)
    return budget


def _read_explore(mark: pytest.Mark, item: pytest.Item) -> int | None:
    explore = mark.kwargs.get("explore")
    if explore is None or explore is False:
        return None
    if isinstance(explore, bool) or not isinstance(explore, int) or not 1 <= explore <= MOST_DEVIATIONS:
        raise MarkerError(
            f"isolation(explore={explore!r}): it takes the number of deviations from what asyncio would have done, "
            f"from 1 to {MOST_DEVIATIONS}, as in explore=1"
        )
    if not inspect.iscoroutinefunction(getattr(item, "obj", None)):
        raise MarkerError(f"isolation(explore={explore}) needs an async test: a sync body has only one order of steps")
    assert isinstance(item, pytest.Function)
    for name, definitions in fixture_definitions(item).items():
        if name in item.fixturenames and _is_async(definitions[-1].func):
            raise MarkerError(
                f"isolation(explore={explore}): the fixture `{name}` is async, so that it is made once, in a loop in "
                "which no order is played. Make it sync, and let it say how one is made for each: "
                f"return pytest_isolation.Fresh(open_{name})"
            )
    return explore


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _heap(mark: pytest.Mark) -> bool | None:
    heap: object = mark.kwargs.get("heap")
    if heap is not None and not isinstance(heap, bool):
        raise MarkerError(
            f"isolation(heap={heap!r}): True makes whatever keeps secrets in memory a finding, False does not look"
        )
    return heap


def _several(keyword: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_AT_ONCE:
        raise MarkerError(
            f"latency({keyword}={value!r}): it takes a whole number from 1 to {MOST_AT_ONCE}, as in {keyword}=20"
        )
    return value


def _refuse_impossible_load(load: Load, item: pytest.Item, scenario: bool) -> None:
    """Refuse runs that could not arrive as the marker says."""
    if load == Load():
        return
    if load.users is not None and load.rate is None:
        raise MarkerError(
            f"latency(users={load.users}) does not say how often each of them comes: users={load.users}, rate=2 is "
            f"twice a second; concurrency={load.users} lets each come again at once"
        )
    if load.concurrency is not None and load.rate is not None:
        raise MarkerError(
            "latency(concurrency=…, rate=…) contradicts itself: either a run begins when another has ended "
            "(concurrency), or when it is due (rate)"
        )
    if scenario and (load.concurrency or load.users):
        raise MarkerError(
            "latency(concurrency=… or users=…) says nothing in an isolation test, whose crowd is at once anyway: "
            "isolation(users=100)"
        )
    if not inspect.iscoroutinefunction(getattr(item, "obj", None)):
        what = "rate" if load.rate is not None else "concurrency"
        raise MarkerError(f"latency({what}=…) needs an async test: a sync body blocks all runs that are due after it")


def _refuse_impossible_place(item: pytest.Item, marker: str) -> None:
    """Refuse tests whose body cannot be repeated or is never called by pytest itself."""
    for reason in _impossible_place(item):
        raise MarkerError(f"@pytest.mark.{marker} cannot work here: {reason}")


def _impossible_place(item: pytest.Item) -> Iterator[str]:
    if not isinstance(item, pytest.Function):
        yield f"{type(item).__name__} is no test function, so there is no body to run"
        return
    if item.cls is not None and issubclass(item.cls, unittest.TestCase):
        yield (
            f"unittest runs the methods of {item.cls.__name__} by itself, so nothing would be measured. "
            "Make it a plain function or class"
        )
    if getattr(item.obj, "is_hypothesis_test", False):
        yield (
            "@given already repeats the body, with other values each time. Give it values with "
            "@pytest.mark.parametrize, or let Hypothesis choose what users do: isolation.state_machine(…)"
        )
    if inspect.isasyncgenfunction(item.obj) or inspect.isgeneratorfunction(item.obj):
        yield "the body is a generator, which pytest does not run"
    if "subtests" in item.fixturenames:
        yield "every repetition would report its sub-tests again; use plain asserts"
    threads = item.config.getoption("parallel_threads", default=None)
    if threads not in (None, 1, "1"):
        yield f"pytest-run-parallel replaces the body (--parallel-threads={threads}); run with --parallel-threads=1"
    for name in ("parallel_threads", "iterations"):
        marker = item.get_closest_marker(name)
        if marker is not None and marker.args[:1] not in ((), (1,)):
            yield f"pytest-run-parallel replaces the body ({name}({marker.args[0]!r})); take that marker away"


def _refuse_without_user(item: pytest.Item) -> None:
    """Refuse a scenario in which the users could not be told apart."""
    assert isinstance(item, pytest.Function)
    taken = inspect.signature(item.function).parameters
    if "user" not in taken:
        signature = ", ".join(["user", *(name for name in taken if name != "self")])
        raise MarkerError(
            "an isolation test is what one user does, so it takes the `user` fixture: "
            f"def {item.originalname}({signature})"
        )
    for name, definitions in fixture_definitions(item).items():
        definition = definitions[-1]
        if name == "user" and not definition.func.__module__.startswith("pytest_isolation."):
            raise MarkerError(f"the fixture `user` is overridden in {definition.func.__module__}; rename that one")
        if name != "user" and "user" in definition.argnames:
            raise MarkerError(
                f"the fixture `{name}` takes `user`, but pytest makes it once for the whole crowd, so that all users "
                "would share one. Let it return a function, and call it in the body: "
                f"{name}(user)"
            )


def fixture_definitions(item: pytest.Function) -> Mapping[str, Any]:
    """The fixtures that a test uses, directly or not, by name; the last definition is the one in force."""
    info = getattr(item, "_fixtureinfo", None)  # no public way to them
    return {name: defs for name, defs in getattr(info, "name2fixturedefs", {}).items() if defs}
