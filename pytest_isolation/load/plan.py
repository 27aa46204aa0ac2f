"""What a load test is to do: how many users, for how long, in which phases, and what has to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from math import isfinite
from types import MappingProxyType

from pytest_isolation.errors import MisuseError


class Operation(StrEnum):
    """What a user does when it comes."""

    CHAT = "chat"
    WEBSOCKET = "websocket"
    MESSAGES = "messages"
    IDLE = "idle"


Mix = Mapping[Operation, float]

TALK: Mix = MappingProxyType({Operation.CHAT: 1.0, Operation.WEBSOCKET: 1.0})
MIX: Mix = MappingProxyType(
    {Operation.CHAT: 6.0, Operation.WEBSOCKET: 2.0, Operation.MESSAGES: 1.0, Operation.IDLE: 1.0}
)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the load test.

    Attributes:
        name: ``steady``, ``burst``, ``sustained`` or ``mixed``.
        seconds: how long users come.
        newcomers: users who arrive at its beginning, all at once, and leave at its end.
        mix: how often users do what.
    """

    name: str
    seconds: float
    newcomers: int = 0
    mix: Mix = field(default_factory=lambda: TALK)


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole load test.

    Attributes:
        seed: determines every arrival and every canary.
        users: how many there are all the time.
        duration_s: of all phases together.
        burst_users: how many more come in the burst; 0 leaves it out.
        burst_s: how long they stay.
        pause_s: between two requests of one user, on average.
        target_s: what 95 of 100 answers may take at most.
        max_error_rate: which share of a phase's attempts may fail.
        mix: how often users do what in the last phase.
        timeout_s: what is not answered by then has failed.

    Raises:
        MisuseError: it cannot be done: what, and the right form.
    """

    seed: int
    users: int = 100
    duration_s: float = 60.0
    burst_users: int = 200
    burst_s: float = 10.0
    pause_s: float = 1.0
    target_s: float = 0.05
    max_error_rate: float = 0.001
    mix: Mix = field(default_factory=lambda: MIX)
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.users < 1 or self.burst_users < 0:
            raise MisuseError(f"a load has at least 1 user and no less than 0 more in the burst: {self}")
        for name in ("duration_s", "burst_s", "pause_s", "target_s", "timeout_s"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise MisuseError(f"{name} is a number > 0, not {getattr(self, name)!r}")
        if self.burst_users and self.burst_s >= self.duration_s:
            raise MisuseError(
                f"the burst is a part of the duration: {self.burst_s:g} s do not fit into {self.duration_s:g} s. "
                "Give --burst-duration less than --duration, or leave it out with --burst-users 0"
            )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Steady, burst, sustained, mixed; what the burst leaves is divided as 1 : 2 : 1."""
        burst = (Phase("burst", self.burst_s, self.burst_users),) if self.burst_users else ()
        quarter = (self.duration_s - sum(phase.seconds for phase in burst)) / 4
        return (
            Phase("steady", quarter),
            *burst,
            Phase("sustained", 2 * quarter),
            Phase("mixed", quarter, mix=self.mix),
        )


def parse_mix(text: str) -> Mix:
    """Read ``chat=6,websocket=2``; an operation that is not named is not done.

    Raises:
        MisuseError: it cannot be read: what is wrong, and the right form.
    """
    mix: dict[Operation, float] = {}
    for part in text.split(","):
        name, equals, weight = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise MisuseError(f"{part.strip()!r} has no weight: write it as {name or 'chat'}=2")
        if name not in tuple(Operation):
            close = get_close_matches(name, tuple(Operation), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else "."
            raise MisuseError(f"there is no operation {name!r}{hint} There are {', '.join(Operation)}")
        if name in mix:
            raise MisuseError(f"{name!r} has two weights: name each operation once")
        mix[Operation(name)] = _weight(name, weight)
    if not any(mix.values()):
        raise MisuseError("no operation has a weight > 0, so there would be nothing to do")
    return MappingProxyType(mix)


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        raise MisuseError(f"the weight of {name!r} is {text!r}, which is no number: write {name}=2") from None
    if not (isfinite(weight) and weight >= 0):
        raise MisuseError(f"the weight of {name!r} is {text}: a weight is a number ≥ 0")
    return weight
