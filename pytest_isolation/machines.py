"""``isolation.state_machine``: Hypothesis chooses what users do, and each such sequence is played in every order.

What is done comes from Hypothesis (which operations, with what, how many users), never when: that is the schedule's. A
sequence that fails is made shorter by Hypothesis as it does with any state machine.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pytest_isolation.awaited import refuse_awaitable
from pytest_isolation.errors import IsolationWarning, MisuseError, NothingMeasured
from pytest_isolation.phases.token import Token

if TYPE_CHECKING:
    from pytest_isolation.model import Result
    from pytest_isolation.users.cast import User

HOW = "isolation.state_machine(open_shop, {add: {'text': st.text()}, read: {}})"

Operation = Callable[..., Awaitable[object]]
Operations = Mapping[Operation, Mapping[str, Any]]
Steps = Sequence[tuple[Operation, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Program:
    """What every user does, one step after the other.

    Attributes:
        users: how many play at once.
        steps: operations, each with what was drawn for it.
    """

    users: int
    steps: Steps

    async def scenario(self, user: User, backend: object) -> None:
        """What one user does with a backend; what an operation returns, the user has seen."""
        for operation, drawn in self.steps:
            seen = await operation(user, backend, **drawn)
            if seen is not None:
                refuse_awaitable(seen)
                user.observe(seen)


class Faulty(AssertionError):
    """A program of which some order fails.

    Attributes:
        program: what was done.
        result: what came of it.
    """

    def __init__(self, program: Program, result: Result) -> None:
        super().__init__("a sequence of operations is not kept apart in every order")
        self.program = program
        self.result = result

    def told(self, again: Result) -> Result:
        """What is told of it; what plays it again is the seed, which determines the sequences and their orders.

        Args:
            again: of a second look, which has made it short; it may have found nothing in its time.
        """
        result = again if again.findings else self.result
        found = (replace(one, replay=str(Token(result.seed or 0))) for one in result.findings)
        return replace(result, findings=tuple(found))


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is played.

    Attributes:
        users: that play at once, at the most.
        examples: how many programs there are.
        steps: how many operations a program has at the most.
        seconds: no more programs are begun after so long, if something has been played.

    Raises:
        MisuseError: with these numbers nothing could be played; it shows the right form.
    """

    users: int
    examples: int
    steps: int
    seconds: float

    def __post_init__(self) -> None:
        if not _is_number(self.users, 2):
            raise MisuseError(f"users={self.users!r}: two users or more play a state machine, as in users=3")
        for name, value, form in (("examples", self.examples, 20), ("steps", self.steps, 6)):
            if not _is_number(value, 1):
                raise MisuseError(f"{name}={value!r}: that is a whole number ≥ 1, as in {name}={form}")


def _is_number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def read_operations(operations: object) -> Operations:
    """The operations, each with a strategy for every further argument.

    Args:
        operations: async functions ``operation(user, backend, …)``, in a list; or in a mapping, each with the
            strategies for its further arguments.

    Raises:
        MisuseError: it shows the right form.
    """
    if isinstance(operations, Mapping):
        found: dict[Any, Any] = dict(operations)
    elif isinstance(operations, Sequence) and not isinstance(operations, str):
        found = {operation: {} for operation in operations}
    else:
        found = {}
    if not found:
        raise MisuseError(f"{operations!r} are no operations: {HOW}")
    for operation, strategies in found.items():
        _refuse_unplayable(operation, strategies)
    return found


def _refuse_unplayable(operation: Any, strategies: Any) -> None:
    if not inspect.iscoroutinefunction(operation):
        raise MisuseError(f"{operation!r} is no operation: async def add(user, backend, text)")
    if not isinstance(strategies, Mapping):
        raise MisuseError(f"{_name_of(operation)}: {strategies!r} is no mapping of arguments to strategies: {HOW}")
    for name, strategy in strategies.items():
        if not hasattr(strategy, "example"):
            raise MisuseError(f"{_name_of(operation)}: {name} is {strategy!r}, and no strategy of Hypothesis: {HOW}")
    taken = list(inspect.signature(operation).parameters.values())[2:]
    needed = {each.name for each in taken if each.default is each.empty and each.kind is not each.VAR_KEYWORD}
    known = {each.name for each in taken}
    if len(inspect.signature(operation).parameters) < 2 or needed - strategies.keys() or strategies.keys() - known:
        raise MisuseError(
            f"{_name_of(operation)} takes (user, backend) and then {sorted(known) or 'nothing'}, and there are "
            f"strategies for {sorted(strategies) or 'nothing'}: {HOW}"
        )


def run_machine(
    operations: Operations,
    extent: Extent,
    seed: int,
    play: Callable[[Program], Result],
    note: Callable[[str], None],
) -> Faulty | None:
    """Let Hypothesis choose programs, and play each; the shortest one that fails.

    Args:
        operations: see ``read_operations``.
        extent: how much is played.
        seed: determines the programs.
        play: explores a program.
        note: is told what a reader should know besides.

    Raises:
        MisuseError: Hypothesis is not installed.
        NothingMeasured: no program was played, or none has observed anything.
    """
    try:
        import hypothesis
        from hypothesis.stateful import run_state_machine_as_test
    except ImportError:
        raise MisuseError("isolation.state_machine needs Hypothesis: pip install hypothesis") from None
    seen = _Seen(play, extent)
    machine = _machine(operations, extent.users, seen)
    is_over = False
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=_settings(extent))
    except Faulty as fault:
        return fault
    except _Over:
        is_over = True
    seen.require()
    if is_over:
        note(
            f"the time was over ({extent.seconds:g} s) after {seen.played} of {extent.examples} sequences of "
            "operations: give it more with state_machine(…, seconds=…), or fewer examples"
        )
    return None


def _settings(extent: Extent) -> Any:
    import hypothesis

    return hypothesis.settings(
        max_examples=extent.examples,
        stateful_step_count=extent.steps + 1,  # it counts the choice of the users, too
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,  # the seed plays the same programs again
        print_blob=False,
        # Without a phase that explains: it would name lines of ours, and play hundreds of sequences for it.
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )


class _Over(BaseException):
    """The time is over. Hypothesis takes every Exception for a failure of the program."""


class _Seen:
    """Plays programs, and counts those of which something could be said."""

    def __init__(self, play: Callable[[Program], Result], extent: Extent) -> None:
        self.played = 0
        self._play = play
        self._deadline = perf_counter() + extent.seconds
        self._has_failed = False
        self._observed = 0
        self._reason: NothingMeasured | None = None

    def try_out(self, program: Program) -> None:
        """Explore a program.

        Raises:
            Faulty: some order of it fails.
        """
        if self._observed and not self._has_failed and perf_counter() > self._deadline:
            raise _Over
        self.played += 1
        try:
            with warnings.catch_warnings():
                # Of one that shows little, others may show more.
                warnings.simplefilter("ignore", IsolationWarning)
                result = self._play(program)
        except NothingMeasured as error:  # who only writes sees nothing; others read
            self._reason = error
            return
        self._observed += 1
        if result.findings:
            self._has_failed = True  # from now on it is made shorter, which must not depend on the time
            raise Faulty(program, result)

    def require(self) -> None:
        """Refuse a machine that could not show anything.

        Raises:
            NothingMeasured: it says why not.
        """
        if self._observed:
            return
        if self._reason is None:
            raise NothingMeasured("Hypothesis chose no sequence of operations, so nothing was played")
        raise NothingMeasured(f"in no sequence of operations {self._reason}")


def _machine(operations: Operations, most_users: int, seen: _Seen) -> type[Any]:
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

    class Users(RuleBasedStateMachine):
        """Several users, who all do the same; its rules are the operations."""

        def __init__(self) -> None:
            super().__init__()
            self.users = most_users
            self.steps: list[tuple[Operation, Mapping[str, Any]]] = []

        @initialize(users=st.integers(2, most_users))
        def let_play(self, users: int) -> None:
            self.users = users

        def teardown(self) -> None:
            if self.steps:
                seen.try_out(Program(self.users, tuple(self.steps)))

    for number, (operation, strategies) in enumerate(operations.items()):
        # Never by its own name: there may be two of one name, and one that the machine needs for itself.
        setattr(Users, f"operation_{number:04}", rule(**strategies)(_step(operation)))
    return Users


def _step(operation: Operation) -> Callable[..., None]:
    def step(self: Any, /, **drawn: Any) -> None:
        self.steps.append((operation, drawn))

    step.__name__ = step.__qualname__ = _name_of(operation)  # what Hypothesis shows
    return step


def _name_of(operation: Any) -> str:
    """Of a function, or of one some of whose arguments are given."""
    return str(getattr(getattr(operation, "func", operation), "__name__", type(operation).__name__))
