"""Users outside a scenario: a test plays several by itself, and what they saw is judged when it has ended."""

from __future__ import annotations

from dataclasses import replace

from pytest_isolation.errors import NothingMeasured
from pytest_isolation.judge import Judge
from pytest_isolation.markers import Plan
from pytest_isolation.model import Holding
from pytest_isolation.phases.token import Token
from pytest_isolation.playbook import Playbook
from pytest_isolation.users.cast import Cast, User, run_of
from pytest_isolation.users.story import Story


class Offstage:
    """The users of one test who play outside a scenario.

    Args:
        plan: what its markers ask for.
        cast: where they come from.
        book: of the test.
        judge: hears what they saw.
        seed: the session's, for replay tokens.

    Attributes:
        players: those whom the fixture ``users`` gave.
        bystander: the one whom the fixture ``user`` gave, if it did.
    """

    def __init__(self, plan: Plan, cast: Cast, book: Playbook, judge: Judge, seed: int) -> None:
        self.players: list[User] = []
        self.bystander: User | None = None
        self._plan = plan
        self._cast = cast
        self._book = book
        self._judge = judge
        self._seed = seed

    def judge(self, demand: bool) -> int:
        """Judge what they saw: nobody a secret of another.

        Args:
            demand: somebody must have observed something.

        Returns:
            How many have played.

        Raises:
            NothingMeasured: nobody observed anything.
        """
        alone = run_of(self.bystander).observations if self.bystander else ()
        everybody = [*self.players, *([self.bystander] if self.bystander else ())]
        held = self._held_in_the_end() if demand else ()
        holders = {one.owner for one in held}
        runs = [run for run in map(run_of, everybody) if run.observations or run.number in holders]
        if demand and self.players and not runs:
            raise NothingMeasured(
                "none of the users observed anything, so no leak could have been seen. "
                "Say what they see: alice.observe(await …)"
            )
        if demand and alone and not self.players and not self._plan.budgets:
            self._book.warn(
                "`user` observed something, but nobody else played: without @pytest.mark.isolation only a leak from "
                "an earlier test could be seen"
            )
        if not runs:
            return 0
        evidence = self._book.evidence("test", runs, str(Token(self._seed)))
        self._judge.look_for_canaries(replace(evidence, after=replace(evidence.after, held=held)), Story(()))
        return len(self.players) or len(runs)

    def _held_in_the_end(self) -> tuple[Holding, ...]:
        """What is alive of what users tracked outside of a scenario, now that the test has ended."""
        if self._cast.tracked.are_alive:
            self._cast.tracked.collect()
        return self._cast.tracked.end()
