"""The fixture ``isolation``: the engine, called from a test's own code."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_isolation.errors import MisuseError
from pytest_isolation.markers import Plan, command
from pytest_isolation.state import STATE

if TYPE_CHECKING:
    from pytest_isolation.engine import Play
    from pytest_isolation.exploring import Search
    from pytest_isolation.machines import Extent, Operations, Program
    from pytest_isolation.model import Report, Result
    from pytest_isolation.users.cast import Target, User

# Of so many programs of a state machine, one is searched for what it leaves in memory.
_EACH_LOOK = 10


class Isolation:
    """The engine from code.

    Args:
        item: the test.
        whole: the play of the whole test, which counts all that is played.
        make: makes a play within it, from what it is told and which of several checks it is.
        target: what users talk to.
    """

    def __init__(
        self,
        item: pytest.Item,
        whole: Play,
        make: Callable[[Plan, int | None], Play],
        target: Target | None = None,
    ) -> None:
        from pytest_isolation.checks import Checks

        self._item = item
        self._make = make
        self._target = target
        self._whole = whole
        self._checks = self._whole.checks = Checks()
        self._is_under_way = False

    def check(
        self,
        scenario: Callable[[User], Awaitable[object]],
        users: int = 100,
        fail: bool = True,
        *,
        cancel: bool | None = None,
        faults: object = False,
        anonymous: float = 0.0,
    ) -> Coroutine[Any, Any, Report]:
        """Let users play a scenario in the running loop: some alone, all at once, one alone; then some are cut.

        Args:
            scenario: an async function that takes the user.
            users: how many play at once.
            fail: fail the test on a finding; False returns the report instead.
            cancel: cut users at every suspension point, or nowhere; None does so as far as the time for sampling lasts.
            faults: True, or the exceptions that are raised at suspension points, each by its type or by a function that
                makes one.
            anonymous: which share of the users has no credentials, from 0 to 1.

        Raises:
            MisuseError: there is nobody to play, or nothing, or something that is asked for is impossible.
            NothingMeasured: the scenario observed or planted nothing.
        """
        from pytest_isolation.awaited import refuse_nobody, refuse_uncallable
        from pytest_isolation.cuts import read_cuts
        from pytest_isolation.loops import in_async_code
        from pytest_isolation.markers import read_share

        refuse_nobody(users, "isolation.check(scenario, users=50)")
        refuse_uncallable(scenario, "await isolation.check(scenario)")
        cuts, share = read_cuts("isolation.check", cancel, faults), read_share("isolation.check", anonymous)
        part = self._checks.ask()  # counted now: a coroutine that nobody awaits never begins
        self._checks.in_sync_code += not in_async_code()
        plan = replace(self._plan, cancel=cuts[0], faults=cuts[1], anonymous=share)
        return self._check(scenario, users, fail, self._apart(plan, part))

    async def _check(self, scenario: Callable[[User], Awaitable[object]], users: int, fail: bool, play: Play) -> Report:
        import anyio

        async def call(user: User) -> object:
            value = scenario(user)
            if not inspect.isawaitable(value):
                raise MisuseError("check() takes an async function: async def scenario(user)")
            return await value

        if self._is_under_way:
            raise MisuseError(
                "another isolation.check of this test is under way, and each sees what changes in the whole process: "
                "await one after the other, and let more users play in one"
            )
        self._is_under_way = True
        try:
            await play.follow_async(
                play.book.script(self._item.config.stash[STATE].settings.users or users, cuts=True), call
            )
        except anyio.get_cancelled_exc_class():
            self._checks.cancelled += 1
            raise
        finally:
            self._is_under_way = False
            self._checks.ended += 1
            play.judge_interrupted()
            play.judge_late()
            self._whole.include(play, findings=fail)
        return self._reported(play.result(), fail)

    def explore(
        self,
        open_backend: Callable[[], Any],
        scenario: Callable[[User, Any], Awaitable[object]],
        users: int = 3,
        deviations: int = 1,
        seconds: float = 5.0,
        *,
        cancel: bool = True,
        inline_threads: bool = False,
        on: str = "asyncio",
        fail: bool = True,
    ) -> Report:
        """Let users play a scenario in every order that their tasks can run in, on a loop of its own, from a sync test.

        Args:
            open_backend: makes a new backend for each run: a function that returns one, an awaitable of one, or a
                context manager; a backend with ``aclose`` is closed.
            scenario: an async function that takes the user and the backend.
            users: how many play at once.
            deviations: so many decisions differ from what asyncio would have done: all such runs are made.
            seconds: how long the search may take; what is left after that is for random runs.
            cancel: a user may be cancelled at any step; nobody else must notice.
            inline_threads: jobs for threads are tasks of the loop, so that every run can be replayed.
            on: ``"trio"`` plays on trio, where threads are always real.
            fail: fail the test on a finding; False returns the report instead.

        Raises:
            MisuseError: there is nobody to play, nothing, or no way to play it.
            NothingMeasured: the scenario observed or planted nothing.
        """
        from pytest_isolation.explorable import refuse_unclear, refuse_uncontrollable, refuse_unexplorable
        from pytest_isolation.exploring import Search
        from pytest_isolation.phases.exploration import Stagecraft

        refuse_unexplorable(open_backend, scenario, users, deviations, seconds, on)
        refuse_unclear("explore", cancel=cancel, inline_threads=inline_threads, fail=fail)
        if inline_threads and on != "asyncio":
            raise MisuseError(f"explore(inline_threads=True, on={on!r}): threads on {on} are always real")
        if on == "asyncio":
            refuse_uncontrollable(self._item)
        craft, part, exhausted = Stagecraft(open_backend, scenario, inline_threads, on), self._checks.ask(), ""
        play = self._explorable(part)
        try:
            exhausted = play.explore(Search(craft, users, deviations, seconds, cancel))
        finally:
            self._checks.ended += 1
            self._whole.include(play, findings=fail)
        return self._reported(play.result(), fail, exhausted)

    def state_machine(
        self,
        open_backend: Callable[[], Any],
        operations: Any,
        users: int = 3,
        deviations: int = 1,
        seconds: float = 10.0,
        *,
        examples: int = 20,
        steps: int = 6,
        cancel: bool = True,
        inline_threads: bool = False,
        fail: bool = True,
    ) -> Report:
        """Let Hypothesis choose what users do, and play each such sequence in every order, from a sync test.

        Args:
            open_backend: makes a new backend for each run, as for ``explore``.
            operations: async functions ``operation(user, backend)``, in a list; or in a mapping, each with Hypothesis
                strategies for its further arguments, by name. What one returns, its user has seen.
            users: so many play at once at the most; two at the least.
            deviations: so many decisions differ from what asyncio would have done.
            seconds: how long all of it may take.
            examples: how many sequences there are.
            steps: how many operations a sequence has at the most.
            cancel: a user may be cancelled at any step.
            inline_threads: jobs for threads are tasks of the loop.
            fail: fail the test on a finding; False returns the report instead.

        Raises:
            MisuseError: there is nobody to play, nothing, or no way to play it.
            NothingMeasured: no sequence observed anything.
        """
        from pytest_isolation.explorable import refuse_unclear, refuse_uncontrollable, refuse_unexplorable
        from pytest_isolation.exploring import Search
        from pytest_isolation.machines import Extent, read_operations
        from pytest_isolation.phases.exploration import Stagecraft

        extent, found = Extent(users, examples, steps, seconds), read_operations(operations)
        refuse_unexplorable(open_backend, open_backend, users, deviations, seconds)
        refuse_unclear("state_machine", cancel=cancel, inline_threads=inline_threads, fail=fail)
        refuse_uncontrollable(self._item)
        part, count = self._checks.ask(), itertools.count()

        def explored(program: Program, refine: bool = False) -> Result:
            craft, share_s = Stagecraft(open_backend, program.scenario, inline_threads), seconds / examples
            looks = next(count) % _EACH_LOOK == 0  # all of memory is looked through, which takes longer than a program
            return self._explored(part, Search(craft, program.users, deviations, share_s, cancel, 50, refine, looks))

        return self._run_machine(found, extent, explored, fail)

    def _explored(self, part: int, search: Search) -> Result:
        """What came of one program of a state machine; its findings are told when there is a shortest one."""
        play = self._explorable(part)
        try:
            play.explore(search)
        finally:
            self._whole.include(play, findings=False, notes=False)
        return play.result()

    def _run_machine(
        self, operations: Operations, extent: Extent, explored: Callable[..., Result], fail: bool
    ) -> Report:
        from pytest_isolation.machines import run_machine
        from pytest_isolation.model import Report

        fault, note = None, self._whole.book.notes.append
        try:
            if not self._whole.replays_one:  # a finding of this one is played again with all of it
                fault = run_machine(operations, extent, self._item.config.stash[STATE].seed, explored, note)
        finally:
            self._checks.ended += 1
        if fault is None:
            return Report((), self._whole.result().phases)
        result = fault.told(explored(fault.program, refine=True))
        if fail:
            self._whole.findings.extend(result.findings)
        return self._reported(result, fail, "", getattr(fault, "__notes__", ()))

    def _reported(self, result: Result, fail: bool, exhausted: str = "", more: Iterable[str] = ()) -> Report:
        """What is told of a check; a finding fails the test if it is to."""
        from pytest_isolation.model import Report
        from pytest_isolation.reports.terminal import failure_text

        if fail and result.findings:
            pytest.fail("\n".join([failure_text(result), *more]), pytrace=False)
        return Report(result.findings, result.phases, exhausted)

    @property
    def _plan(self) -> Plan:
        return Plan(self._item.nodeid, command(self._item))

    def _explorable(self, part: int) -> Play:
        play = self._apart(self._plan, part)
        play.cast.target = None  # an application behind a socket has a loop of its own
        return play

    def _apart(self, plan: Plan, part: int | None = None) -> Play:
        play = self._make(plan, part)
        play.cast.target = self._target
        play.lendings = self._whole.lendings
        return play
