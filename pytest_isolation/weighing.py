"""What the fixture ``memory`` hands out: weighs objects, in the first runs of a body."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_isolation.errors import MisuseError

if TYPE_CHECKING:
    from pytest_isolation.engine import Play


class Memory:
    """What a test's objects weigh."""

    def __init__(self, play: Play) -> None:
        self._growing = play.growing

    def weigh(self, thing: object, shared: Iterable[object] = ()) -> int:
        """The bytes of an object with everything that only it holds; ``per_object_kb`` judges the heaviest.

        Classes, functions and modules are shared by their nature. Under ``@pytest.mark.memory`` objects are weighed in
        the first runs of the body, before anything is counted; later runs are given the heaviest of those.

        Args:
            thing: what is weighed.
            shared: what it refers to and others do too; neither that nor what is reached from it counts.

        Raises:
            MisuseError: ``shared`` is no collection, or Pympler is not installed.
        """
        from pytest_isolation.phases.pympler import weigh

        if not isinstance(shared, Iterable) or isinstance(shared, str | bytes):
            raise MisuseError(f"shared={shared!r} is no collection: memory.weigh(request, shared=[backend])")
        if self._growing is None:
            return weigh(thing, shared)
        if self._growing.weighs:
            self._growing.weighed(weigh(thing, shared))
        return self._growing.heaviest_bytes
