"""One run on trio, in an order that is ours: the same users, backend and conductor as on asyncio.

trio has a hook of its own for that: with ``_ALLOW_DETERMINISTIC_SCHEDULING`` it hands every batch of tasks that can run
to ``_r.shuffle``, which here leaves one in it and puts the others back. Both names are private, so they are looked for
first, and what is not there is said. Time is trio's ``MockClock``, which jumps when nothing else can happen.
"""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from math import inf
from threading import Timer
from typing import TYPE_CHECKING, Any, cast

from pytest_isolation.errors import MisuseError
from pytest_isolation.model import Run
from pytest_isolation.phases.conductor import Conductor, Stuck
from pytest_isolation.phases.exploration import Clocked, Played, Stagecraft, open_fresh
from pytest_isolation.phases.interleaving import TEST, Trace, standing
from pytest_isolation.phases.lanes import MOST_IN_A_ROW
from pytest_isolation.phases.strategies import STICKY
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import User, run_of

if TYPE_CHECKING:
    import trio

_PARTS = ("_ALLOW_DETERMINISTIC_SCHEDULING", "_r", "GLOBAL_RUN_CONTEXT")
# Where a socket or a thread is waited for, real time decides.
_QUIET_S = 10.0
# So long no deadline comes earlier than on a real clock while somebody waits for a socket.
_PATIENCE_S = 5.0


def why_not() -> str:
    """Why orders cannot be ours on the trio that is installed; empty if they can."""
    try:
        core = _core()
    except ImportError:
        return "trio is not installed"
    import trio.testing

    missing = [name for name in _PARTS if not hasattr(core, name)]
    if missing:
        return f"this version of trio has no {', '.join(missing)} in trio._core._run"
    return "" if hasattr(trio.testing.MockClock, "_autojump") else "this version of trio has no MockClock._autojump"


def _core() -> Any:
    from trio._core import _run

    return _run


class Seat:
    """A task of trio, with what the conductor asks of a task.

    Attributes:
        scope: whose cancellation is the task's; None for one that cannot be cancelled by itself.
    """

    __slots__ = ("_name", "_task", "error", "has_ended", "scope")

    def __init__(self, task: trio.lowlevel.Task | None = None, name: str = "") -> None:
        self._task = task
        self._name = name
        self.scope: trio.CancelScope | None = None
        self.has_ended = False
        self.error: BaseException | None = None

    def sit(self, task: trio.lowlevel.Task, scope: trio.CancelScope) -> None:
        """The task has begun."""
        self._task, self.scope = task, scope

    def cancel(self) -> None:
        """Cancel it at the next point where trio can."""
        if self.scope is not None:
            self.scope.cancel()

    def get_name(self) -> str:
        """Who it is."""
        return self._name or (self._task.name.rpartition(".")[2] if self._task is not None else "")

    def get_coro(self) -> object:
        """What it runs."""
        return None if self._task is None else self._task.coro

    def done(self) -> bool:
        """It has ended."""
        return self.has_ended

    def cancelled(self) -> bool:
        """It has ended because it was cancelled."""
        return self.scope is not None and self.scope.cancelled_caught

    def exception(self) -> BaseException | None:
        """What ended it."""
        return self.error


class _Scheduler:
    """Stands in the place of trio's own random numbers, and for an instrument.

    Attributes:
        stuck: why the run was stopped; empty if it came to its end.
        main: where whoever opens and closes the backend stood then.
        standing: where those stood then who had not ended.
    """

    def __init__(self, core: Any, conductor: Conductor) -> None:
        import trio.testing

        self.stuck, self.main, self.standing = "", "", list[str]()
        self.root = trio.CancelScope()
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self.seats: dict[Any, Seat] = {}
        self._core = core
        self._conductor = conductor
        self._came: dict[Any, int] = {}
        self._arrivals = 0
        self._last: Any = None
        self._in_a_row = 0
        self._patience: Timer | None = None
        self._has_listened = False
        self._jump: Callable[[], None] = self.clock._autojump
        self.clock._autojump = self._jump_unless_awaited  # type: ignore[method-assign] # a later trio may lack it

    def shuffle(self, batch: list[Any]) -> None:
        """Leave the one that runs now."""
        if not batch:
            return
        for task in batch:
            if task not in self._came:
                self._came[task] = self._arrivals = self._arrivals + 1
        batch.sort(key=self._came.__getitem__)
        if self._conductor.order == STICKY and self._in_a_row < MOST_IN_A_ROW and self._last in batch:
            batch.remove(self._last)
            batch.insert(0, self._last)
        at = next((at for at, task in enumerate(batch) if self._is_own(task)), 0)
        if self._conductor.decides and len(batch) > 1 and not self._is_own(batch[at]):
            keys = [task._counter for task in batch]
            self._conductor.strategy.meet(keys)
            at = self._conductor.pick(keys)
            if at and self._conductor.watcher is not None:
                seats: Any = [self._seat(task) for task in batch[:at]]
                self._conductor.watcher.deviation(seats)
        chosen = batch.pop(at)
        queue = self._core.GLOBAL_RUN_CONTEXT.runner.runq
        for task in batch:
            queue.append(task) if hasattr(queue, "append") else queue.__setitem__(task, None)
        batch[:] = [chosen]
        del self._came[chosen]
        self._in_a_row = self._in_a_row + 1 if chosen is self._last else 0
        self._last = chosen
        self._before(chosen)

    def random(self) -> float:
        """Nothing is reversed."""
        return 1.0

    def uniform(self, low: float, _high: float) -> float:
        """Every clock begins at the same time."""
        return low

    def _before(self, task: Any) -> None:
        import trio

        # A thread is at work: time may pass for real, but must not jump.
        busy = trio.to_thread.current_default_thread_limiter().borrowed_tokens > 0
        self.clock.autojump_threshold, self._has_listened = inf if busy else 0, False
        self._conductor.external += busy
        self._conductor.steps += 1
        if self._conductor.steps <= self._conductor.alert_from:
            return
        seat: Any = self._seat(task)
        no_handle: Any = None
        try:
            self._conductor.before(seat, self.clock.current_time, no_handle)
        except Stuck as error:
            self._stop(str(error))

    def _jump_unless_awaited(self) -> None:
        """Let time jump to the next deadline; while somebody waits for a socket not before it had as much real time."""
        import trio

        now = trio.lowlevel.current_statistics()
        if _awaited_sockets(now) > 0 and not self._has_listened:
            self._has_listened = True
            self.clock.autojump_threshold = min(now.seconds_to_next_deadline, _PATIENCE_S)
        else:
            self.clock.autojump_threshold, self._has_listened = 0, False
            self._jump()

    def _seat(self, task: Any) -> Seat:
        if task not in self.seats:
            self.seats[task] = Seat(task, TEST if self._is_own(task) else "")
        return self.seats[task]

    def _is_own(self, task: Any) -> bool:
        """It is trio's, or only waits for the users: it comes first, and is not told of."""
        runner, nursery = self._core.GLOBAL_RUN_CONTEXT.runner, task.parent_nursery
        if nursery is None or task is runner.main_task:
            return True
        return nursery.parent_task is runner.init_task and nursery is not runner.system_nursery

    def _stop(self, why: str) -> None:
        if not self.stuck:
            self.stuck = why
            seats: list[Any] = [seat for seat in self.seats.values() if seat.scope is not None and not seat.done()]
            self.main = standing(cast("Any", Seat(self._core.GLOBAL_RUN_CONTEXT.runner.main_task)))
            self.standing = [f"{seat.get_name()} stands at {standing(seat)}" for seat in seats]
            self._conductor.freeze()
            self.root.cancel()

    def before_io_wait(self, _timeout: float) -> None:
        """Trio's instrument: if nothing can run now, and no timer is left either, nothing ever will."""
        import trio

        now = trio.lowlevel.current_statistics()
        sockets = _awaited_sockets(now)
        if now.tasks_runnable or self.root.cancel_called:
            return
        self._conductor.external += sockets > 0
        if now.seconds_to_next_deadline < inf or self._patience:
            return
        busy = trio.to_thread.current_default_thread_limiter().borrowed_tokens
        token = trio.lowlevel.current_trio_token()
        if sockets <= 0 and not busy and not now.run_sync_soon_queue_size:
            token.run_sync_soon(self._stop, "nothing can go on: a deadlock")
            return
        self._patience = Timer(
            _QUIET_S, token.run_sync_soon, (self._stop, f"nothing came from outside for {_QUIET_S:g} s")
        )
        self._patience.daemon = True
        self._patience.start()

    def after_io_wait(self, _timeout: float) -> None:
        """Trio's instrument: something came."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def _awaited_sockets(now: Any) -> int:
    """How many tasks wait for a socket or a pipe; one of trio's own always does."""
    waiting = now.io_statistics
    return getattr(waiting, "tasks_waiting_read", 0) + getattr(waiting, "tasks_waiting_write", 0) - 1


@contextmanager
def _ours(core: Any, scheduler: _Scheduler) -> Iterator[None]:
    before = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r
    core._ALLOW_DETERMINISTIC_SCHEDULING, core._r = True, scheduler
    try:
        yield
    finally:
        core._ALLOW_DETERMINISTIC_SCHEDULING, core._r = before


class _Instrument:
    """What of the scheduler trio is told of; an instrument's other methods would cost."""

    def __init__(self, scheduler: _Scheduler) -> None:
        self.before_io_wait, self.after_io_wait = scheduler.before_io_wait, scheduler.after_io_wait


class _Stage:
    """Where one run is played."""

    def __init__(
        self,
        craft: Stagecraft,
        conductor: Conductor,
        scheduler: _Scheduler,
        users: Sequence[User],
        probe: User | None,
        at_once: bool,
    ) -> None:
        self._craft = craft
        self._conductor = conductor
        self._scheduler = scheduler
        self._users = users
        self._probe = probe
        self._at_once = at_once
        self._seats: dict[User, Seat] = {}
        self._runs: dict[User, Run] = {}
        self._times: dict[int, Clocked] = {}
        self._backend: object = None
        self._is_open = self._is_closing = False

    async def perform(self) -> None:
        """Open the backend, let users play, close it."""
        with self._scheduler.root:
            async with AsyncExitStack() as stack:
                self._backend = await open_fresh(self._craft.open_backend, stack)
                self._is_open = True
                if self._at_once:
                    with self._conductor.deciding():
                        await self._let_play(self._users)
                else:
                    for user in self._users:
                        await self._let_play([user])
                if self._probe is not None:
                    await self._let_play([self._probe])
                self._is_closing = not self._scheduler.stuck

    async def _let_play(self, users: Sequence[User]) -> None:
        import trio

        async with trio.open_nursery() as nursery:
            for user in users:
                self._seats[user] = Seat(name=repr(user)[1:-1])
                nursery.start_soon(self._play, user, name=repr(user)[1:-1])

    async def _play(self, user: User) -> None:
        import trio

        seat, error = self._seats[user], None
        AT_WORK.set(user)
        user._observations = seen = Clocked(trio.current_time)
        with trio.CancelScope() as scope:
            task = trio.lowlevel.current_task()
            seat.sit(task, scope)
            self._scheduler.seats[task] = seat
            victim: Any = seat
            self._conductor.expose(victim)
            try:
                await _awaitable(self._craft.scenario(user, self._backend))
            except (KeyboardInterrupt, SystemExit, GeneratorExit, MisuseError, trio.Cancelled):
                raise  # a cancellation of its own is caught by the scope
            except BaseException as raised:
                error = seat.error = raised
            finally:
                self._conductor.spare(victim)
        seat.has_ended = True
        if scope.cancelled_caught:
            error = CancelledError("cancelled")
        seen.end()
        self._times[user._number] = seen
        self._runs[user] = run_of(user, error, True, seen.seconds)

    def played(self) -> Played:
        """What came of it."""
        stuck = f"{self._scheduler.stuck}, at {self._scheduler.main}" if self._scheduler.stuck else ""
        if stuck and not self._is_open:
            raise MisuseError(f"the backend never was there: {stuck}")
        if stuck and self._is_closing and not self._at_once:
            raise MisuseError(f"the backend did not close after users who were alone: {stuck}")
        if isinstance(trace := self._conductor.watcher, Trace):
            trace.end()
        seats = [(user, seat) for user, seat in self._seats.items() if user not in self._runs]
        waiting = (self._scheduler.stuck, *self._scheduler.standing) if seats else ()
        for user, _ in seats:
            self._runs[user] = run_of(user, None, ended=False)
        for user in self._users:
            self._runs.setdefault(user, run_of(user, None, ended=False))
        cancelled: set[Any] = {*self._conductor.cancelled}
        cut = frozenset(user._number for user, seat in self._seats.items() if seat in cancelled)
        probe = self._runs.get(self._probe) if self._probe is not None else None
        runs = tuple(self._runs[user] for user in self._users)
        return Played(runs, cut, probe, waiting, self._backend, self._times, (), stuck if self._is_closing else "")


def _awaitable(value: object) -> Awaitable[object]:
    if not inspect.isawaitable(value):
        raise MisuseError("explore() takes an async function: async def scenario(user, backend)")
    return value


def play_on_trio(
    craft: Stagecraft, conductor: Conductor, users: Sequence[User], probe: User | None = None, at_once: bool = True
) -> Played:
    """Make one run on trio; the same as ``exploration.play`` on asyncio.

    Raises:
        MisuseError: trio cannot be had in our order, or the scenario is not async.
    """
    import trio

    if reason := why_not():
        raise MisuseError(f"explore(…, on='trio') cannot decide who runs next: {reason}")
    core = _core()
    scheduler = _Scheduler(core, conductor)
    stage = _Stage(craft, conductor, scheduler, users, probe, at_once)
    instrument: Any = _Instrument(scheduler)
    with _ours(core, scheduler):
        try:
            trio.run(stage.perform, clock=scheduler.clock, instruments=[instrument])
        except BaseExceptionGroup as group:
            raise _innermost(group) from None
    return stage.played()


def _innermost(group: BaseException) -> BaseException:
    """What is told of is one misuse, or Ctrl-C, and not the groups that nurseries put around it."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
