"""How the backend is built: three presets, a switch for every optimisation, and the environment.

``balanced`` is the default; ``minimal`` has every optimisation off and is correct all the same; ``maximum`` trades a
few milliseconds of an event's delay and some memory for throughput. ``REFERENCE_PRESET=maximum`` picks one, and
``REFERENCE_EMITTERS_LIMIT=50`` changes one field of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite
from types import MappingProxyType
from typing import Any

PREFIX = "REFERENCE_"
_LEAST = {
    **dict.fromkeys(("class_cache_size", "batch_size", "inbox_limit", "agents_per_user", "database_pool_size"), 1),
    "database_max_overflow": 0,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be chosen.

    Attributes:
        database_url: of SQLAlchemy, for an async driver; None is a SQLite file that is removed at the end.
        database_pool_size: connections that are kept.
        database_max_overflow: more that may be opened at need.
        broker_url: ``redis://…`` or ``postgresql://…`` carries events between replicas; None keeps them in the process.
        pool_emitters: lend emitters from a pool instead of making one for each request.
        emitters_ready: how many are made beforehand.
        emitters_limit: how many there may be; who comes then waits.
        emitter_timeout_s: for how long.
        cache_classes: keep what the agent registry has resolved.
        class_cache_size: how many names it keeps.
        lazy_sessions: open a database session when it is first used, not with the request.
        lazy_start: connect to the database when it is first needed, not at the start.
        lock_per_key: one lock for each user; without it one for all.
        sample_rate: share of the operations that are kept in detail, and of the requests whose stages are timed; what
            is timed explicitly (``timed_operation``) is counted in any case.
        trace_operations: every timed operation is a span of OpenTelemetry too, for the provider that is set globally.
        batch_events: send several events of a request to a socket as one message.
        batch_size: at most so many.
        batch_wait_s: none waits longer than this for company.
        inbox_limit: events that are kept for a slow socket.
        socket_timeout_s: a socket that takes longer than this for one message is closed.
        agents_per_user: how many agents of one user run at once.
        agent_timeout_s: how long one may run.
        token_secret: signs the tokens of the application; None makes one up at the start.
    """

    database_url: str | None = None
    database_pool_size: int = 5
    database_max_overflow: int = 10
    broker_url: str | None = None
    pool_emitters: bool = True
    emitters_ready: int = 20
    emitters_limit: int = 200
    emitter_timeout_s: float = 5.0
    cache_classes: bool = True
    class_cache_size: int = 128
    lazy_sessions: bool = True
    lazy_start: bool = True
    lock_per_key: bool = True
    sample_rate: float = 0.1
    trace_operations: bool = False
    batch_events: bool = False
    batch_size: int = 16
    batch_wait_s: float = 0.005
    inbox_limit: int = 1000
    socket_timeout_s: float = 10.0
    agents_per_user: int = 10
    agent_timeout_s: float = 30.0
    token_secret: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.emitters_ready <= self.emitters_limit or self.emitters_limit < 1:
            raise ValueError(
                f"a pool has 0 ≤ emitters_ready ≤ emitters_limit and emitters_limit ≥ 1, "
                f"not {self.emitters_ready} and {self.emitters_limit}"
            )
        if not 0 <= self.sample_rate <= 1:
            raise ValueError(f"sample_rate is a share from 0 to 1, not {self.sample_rate!r}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, not {getattr(self, name)!r}")
        for name in ("emitter_timeout_s", "agent_timeout_s", "batch_wait_s", "socket_timeout_s"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is a number of seconds > 0, not {getattr(self, name)!r}")


BALANCED = Settings()
PRESETS: Mapping[str, Settings] = MappingProxyType(
    {
        "minimal": replace(
            BALANCED,
            pool_emitters=False,
            cache_classes=False,
            lazy_sessions=False,
            lazy_start=False,
            lock_per_key=False,
            sample_rate=1.0,
        ),
        "balanced": BALANCED,
        "maximum": replace(BALANCED, emitters_ready=200, sample_rate=0.01, batch_events=True),
    }
)


def preset(name: str) -> Settings:
    """The settings of this name.

    Raises:
        ValueError: there is none; it names those that there are.
    """
    found = PRESETS.get(name)
    if found is None:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return found


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """A preset with what the environment changes in it.

    Args:
        environment: ``REFERENCE_PRESET`` and ``REFERENCE_`` with the name of any field, in capitals.

    Raises:
        ValueError: a variable is unknown or its value impossible: which one, and the right form.
    """
    settings = preset(environment.get(f"{PREFIX}PRESET", "balanced"))
    known = {f"{PREFIX}{field.name.upper()}": field.name for field in fields(Settings)}
    changes: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable == f"{PREFIX}PRESET":
            continue
        if variable not in known:
            raise ValueError(f"{variable}: there is no such setting; there are {', '.join(sorted(known))}")
        changes[known[variable]] = _read(variable, text, getattr(BALANCED, known[variable]))
    return replace(settings, **changes)


def _read(variable: str, text: str, default: object) -> object:
    """A text as a value of the same kind as the default."""
    if isinstance(default, bool):
        if text.lower() not in _WORDS:
            raise ValueError(f"{variable}={text!r}: it takes one of {', '.join(_WORDS)}")
        return _WORDS[text.lower()]
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise ValueError(f"{variable}={text!r}: it takes {kind}") from None
    return text or None


_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
