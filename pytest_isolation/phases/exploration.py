"""One run on the controlled loop: a fresh backend, users who play at once, one who comes after them, and the end."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from traceback import clear_frames
from types import CoroutineType
from typing import Any, NamedTuple
from weakref import ref

from pytest_isolation.errors import MisuseError
from pytest_isolation.model import Leftover, Observation, Run
from pytest_isolation.phases.aiosqlite import inline_connections
from pytest_isolation.phases.conductor import Conductor, Stuck
from pytest_isolation.phases.interleaving import TEST, Trace, standing
from pytest_isolation.phases.lanes import AtOnce
from pytest_isolation.phases.left import left_tasks
from pytest_isolation.phases.loop import ControlledLoop
from pytest_isolation.phases.waiting import told
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import User, run_of

_HOW = "isolation.explore(open_backend, scenario), where open_backend() makes a new backend each time it is called"
# What ends by itself is given a virtual second.
_SETTLING_S = (0.0, 0.0, 0.0, 1.0, 0.0)
# Sums of times differ in what comes after that, depending on when they began.
_DIGITS = 9
_MOST_KEPT = 1000
_BARRIERS = (asyncio.Barrier, threading.Barrier)
_VALUES = (type(None), bool, int, float, str, bytes)

Scenario = Callable[[User, Any], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Stagecraft:
    """How runs are made.

    Attributes:
        open_backend: makes a new backend: a function, or one that gives an awaitable or an async context manager.
        scenario: what one user does with it.
        inline_threads: jobs for threads are tasks of the loop.
        on: which library's tasks they are: ``asyncio`` or ``trio``.
    """

    open_backend: Callable[[], Any]
    scenario: Scenario
    inline_threads: bool = False
    on: str = "asyncio"


class Clocked(list[Observation]):
    """What a user sees, and when.

    Args:
        now: virtual time.

    Attributes:
        seconds: how long it took from the beginning to the end.
    """

    __slots__ = ("_begun", "_now", "_times", "seconds")

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds = 0.0
        self._now = now
        self._begun = now()
        self._times: list[float] = []

    def append(self, observation: Observation) -> None:
        """Keep it, and when it came."""
        list.append(self, observation)
        self._times.append(self._now())

    def end(self) -> None:
        """The user has ended."""
        self.seconds = self._now() - self._begun
        del self._now  # whose loop is over soon

    def is_as(self, other: Clocked) -> bool:
        """All came at the same times, and the end did."""
        exactly = (self._begun, self._times, self.seconds) == (other._begun, other._times, other.seconds)
        return exactly or self.since_begun() == other.since_begun()

    def since_begun(self) -> tuple[float, ...]:
        """When everything came, and the end, in seconds since the user began."""
        return tuple(round(seconds, _DIGITS) for seconds in (*(at - self._begun for at in self._times), self.seconds))


class Played(NamedTuple):
    """What came of one run.

    Attributes:
        runs: of the users who played at once; or one after another, where they did.
        cancelled: which of them were cancelled.
        probe: the run of the one who came after them; None if nobody did.
        waiting: where those stand who never got to the end, and why; empty if all did.
        backend: that was used.
        times: when each user saw what it saw, by its number.
        left: what goes on though those who played at once, or each who played after another, have ended.
        unclosed: why the backend did not close when all users had ended; empty if it did.
    """

    runs: tuple[Run, ...]
    cancelled: frozenset[int]
    probe: Run | None
    waiting: tuple[str, ...]
    backend: object
    times: Mapping[int, Clocked]
    left: tuple[tuple[Leftover, ...], ...]
    unclosed: str = ""

    def when(self, number: int) -> tuple[float, ...] | None:
        """When a user saw what it saw, and ended, in virtual seconds since it began; None if it never ended."""
        seen = self.times.get(number)
        return None if seen is None else seen.since_begun()


def play(
    craft: Stagecraft, conductor: Conductor, users: Sequence[User], probe: User | None = None, at_once: bool = True
) -> Played:
    """Make one run.

    Args:
        craft: how.
        conductor: decides who is next while the users play.
        users: who plays.
        probe: who comes after them, when they have all ended.
        at_once: they play concurrently; False lets one come after another.

    Raises:
        MisuseError: the scenario is not async.
    """
    if craft.on == "trio":
        from pytest_isolation.phases.trio_order import play_on_trio

        return play_on_trio(craft, conductor, users, probe, at_once)
    loop = ControlledLoop(conductor, craft.inline_threads)
    loop.set_exception_handler(_tell_unless_lost)
    stage = _Stage(loop, craft, conductor, users, probe, at_once)
    with ExitStack() as around:
        if craft.inline_threads:
            around.enter_context(inline_connections(loop))
        if isinstance(conductor.watcher, Trace):
            around.enter_context(conductor.watcher.holding.watched())
        try:
            main = loop.create_task(stage.perform(), name=TEST)
            try:
                loop.run_until_complete(main)
            except Stuck as error:
                stage.stop(str(error), main)
            return stage.played()
        finally:
            clean_up(loop, conductor)


class _Stage:
    """Where one run is played."""

    def __init__(
        self,
        loop: ControlledLoop,
        craft: Stagecraft,
        conductor: Conductor,
        users: Sequence[User],
        probe: User | None,
        at_once: bool,
    ) -> None:
        self._loop = loop
        self._craft = craft
        self._conductor = conductor
        self._users = users
        self._probe = probe
        self._at_once = at_once
        self._tasks: dict[User, asyncio.Task[None]] = {}
        self._runs: dict[User, Run] = {}
        self._waiting: tuple[str, ...] = ()
        self._backend: object = None
        self._is_open = self._is_closing = False
        self._unclosed = ""
        self._times: dict[int, Clocked] = {}
        self._before: Collection[asyncio.Task[Any]] = ()
        self._left: list[tuple[Leftover, ...]] = []

    async def perform(self) -> None:
        """Open the backend, let users play, close it."""
        async with AsyncExitStack() as stack:
            self._backend = await open_fresh(self._craft.open_backend, stack)
            self._is_open, self._before = True, self._loop.tasks()
            if self._at_once:
                self._conductor.decide()
                try:
                    await _all([self._begin(user) for user in self._users])
                finally:
                    self._conductor.end_deciding()
            else:
                for user in self._users:
                    await _all([self._begin(user)])
                    self._left.append(await self._settled([user]))
            if self._probe is not None:
                await _all([self._begin(self._probe)])
            if self._at_once:
                self._left.append(await self._settled(self._users))
            self._is_closing = True

    async def _settled(self, users: Sequence[User]) -> tuple[Leftover, ...]:
        """What these users left behind, when it has had as much time as it may take."""
        for pause_s in _SETTLING_S:
            left = [task for task in self._loop.tasks() if task not in self._before]
            if not left:
                return ()
            await asyncio.sleep(pause_s)
        return tuple(left_tasks([task for task in left if not task.done()], users))

    def stop(self, why: str, main: asyncio.Task[None]) -> None:
        """Nothing goes on any more: see who stands where.

        Raises:
            MisuseError: no order of users' steps has a part in it.
        """
        if not self._is_open:
            raise MisuseError(f"the backend never was there: {why}; open_backend stands at {standing(main)}")
        if self._is_closing and not self._at_once:
            raise MisuseError(f"the backend did not close after users who were alone: {why}, at {standing(main)}")
        trace = self._conductor.watcher if isinstance(self._conductor.watcher, Trace) else Trace()
        trace.end()
        if self._is_closing:
            self._unclosed = f"{why}, at {standing(main)}"
            self._waiting = told([main], trace.holding, lambda _: "whoever closes the backend", standing)
            return
        stuck = [task for user, task in self._tasks.items() if user not in self._runs]
        busiest = [trace.busiest()] if self._conductor.steps > self._conductor.limit and trace.turns else []
        self._waiting = (why, *busiest, *told(stuck, trace.holding, trace.name, standing))

    def played(self) -> Played:
        """What came of it."""
        runs = tuple([self._run_of(user) for user in self._users])
        probe = self._run_of(self._probe) if self._probe in self._tasks and self._probe is not None else None
        cancelled = self._conductor.cancelled
        cut = frozenset([user._number for user, task in self._tasks.items() if task in cancelled] if cancelled else ())
        return Played(runs, cut, probe, self._waiting, self._backend, self._times, tuple(self._left), self._unclosed)

    def _run_of(self, user: User) -> Run:
        run = self._runs.get(user)
        return run_of(user, None, ended=False) if run is None else run

    def _begin(self, user: User) -> asyncio.Task[None]:
        context = copy_context()
        context.run(AT_WORK.set, user)
        task = self._loop.create_task(self._play(user), name=user._label, context=context)
        self._tasks[user] = task
        self._loop.free(task)
        return task

    async def _play(self, user: User) -> None:
        task = asyncio.current_task()  # which an eager one is, before whoever makes it has it
        assert task is not None
        user._observations = seen = Clocked(self._loop.time)
        error: BaseException | None = None
        self._conductor.expose(task)
        try:
            played = self._craft.scenario(user, self._backend)
            await (played if type(played) is CoroutineType else _awaitable(played))
        except (KeyboardInterrupt, SystemExit, GeneratorExit, MisuseError):
            raise
        except BaseException as raised:  # also a cancellation: it is this user's
            error = raised
            if self._at_once:
                _let_go(error)
        finally:
            self._conductor.spare(task)
        if not self._conductor.is_over:
            seen.end()
            self._times[user._number] = seen
            self._runs[user] = run_of(user, error, True, seen.seconds)


def _let_go(error: BaseException) -> None:
    """Keep an exception, but neither its frames nor what they hold: a cursor there would keep its lock."""
    seen: set[BaseException] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        one = chain.pop()
        if one is not None and one not in seen:
            seen.add(one)
            clear_frames(one.__traceback__)
            one.__traceback__ = None  # or this very frame, and since Python 3.13 whoever called it
            chain += [one.__cause__, one.__context__]


def _awaitable(value: object) -> Awaitable[object]:
    if not inspect.isawaitable(value):
        raise MisuseError("explore() takes an async function: async def scenario(user, backend)")
    return value


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all; what is raised here is not the users' but a misuse."""
    over, left = asyncio.get_running_loop().create_future(), len(tasks)

    def count(_: object) -> None:
        nonlocal left
        left -= 1
        if not left and not over.done():
            over.set_result(None)

    told = AtOnce(count)
    for task in tasks:
        task.add_done_callback(told)
    await over
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def open_fresh(open_backend: Callable[[], Any], stack: AsyncExitStack) -> object:
    """Make a backend that is closed with the stack.

    Args:
        open_backend: gives a backend, an awaitable of one, or a context manager: what that gives is the backend, or it
            is one itself if its class gives None. A lock or a semaphore is not entered, for that would take it.
        stack: closes it.
    """
    value = open_backend()
    if inspect.isawaitable(value):
        value = await value
    if _is_lock(value):
        return value
    if hasattr(value, "__aenter__") or hasattr(value, "__enter__"):
        is_async = hasattr(value, "__aenter__")
        given = await stack.enter_async_context(value) if is_async else stack.enter_context(value)
        is_itself = given is None and type(value).__module__ != "contextlib"  # whose functions mean what they yield
        return value if is_itself else given
    if inspect.isasyncgen(value) or inspect.isgenerator(value):
        raise MisuseError(f"open_backend gives a generator: put @asynccontextmanager above it, as in {_HOW}")
    if (close := getattr(value, "aclose", None)) is not None:
        stack.push_async_callback(close)
    return value


def _is_lock(value: object) -> bool:
    """A lock, semaphore, condition or barrier, of asyncio, trio, anyio or threading; pools have ``acquire``, too."""
    if isinstance(value, _BARRIERS):
        return True
    if not (hasattr(value, "acquire") and hasattr(value, "release")):
        return False
    says_so = hasattr(value, "locked") or hasattr(value, "acquire_nowait")
    return says_so or type(value).__module__ in ("threading", "_thread")


class Used:
    """The backends that runs have had, to refuse one that comes a second time.

    What can be referred to weakly is not kept alive by it; of the rest the last ones are kept.
    """

    def __init__(self) -> None:
        self._weakly: dict[int, ref[object]] = {}
        self._kept: deque[object] = deque(maxlen=_MOST_KEPT)

    def refuse(self, backend: object) -> None:
        """Refuse a backend that is not new.

        Raises:
            MisuseError: it shows how to make one.
        """
        if isinstance(backend, _VALUES):
            return
        known = self._weakly.get(id(backend))
        if (known is not None and known() is backend) or any(one is backend for one in self._kept):
            raise MisuseError(
                f"open_backend gave the same object twice, so what one run left behind the next met: {_HOW}"
            )
        try:
            self._weakly[id(backend)] = ref(backend)
        except TypeError:
            self._kept.append(backend)


def clean_up(loop: ControlledLoop, conductor: Conductor) -> None:
    """End whatever goes on, and close the loop; who cannot be ended is left."""
    conductor.finish()
    if tasks := loop.tasks():
        with _stuck_ignored():
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks))
    if loop.has_generators:
        with _stuck_ignored():
            loop.run_until_complete(loop.shutdown_asyncgens())
    if loop.has_threads:
        with _stuck_ignored():
            loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    conductor.dismiss()


@contextmanager
def _stuck_ignored() -> Iterator[None]:
    try:
        yield
    except Stuck:
        return


def _tell_unless_lost(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Hear of everything but tasks and exceptions that nobody waits for: who is cancelled leaves them behind."""
    message = context.get("message", "")
    if not message.endswith(("exception was never retrieved", "destroyed but it is pending!")):
        loop.default_exception_handler(context)
