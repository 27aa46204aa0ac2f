"""Where slow calls spent their time: the causes of each call added up, and named by what was awaited.

What a coroutine waits for is read off the chain of frames behind its ``await``: the outermost frame of a known library
says what kind of thing it is, the innermost frame of the user's own code says where.
"""

from __future__ import annotations

import gc
import site
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from pytest_isolation.verdicts import Attribution, Cause

OWN_CPU = "own CPU"
LOOP_QUEUE = "loop queue"
GC = "garbage collection"
MACHINE = "the machine"
LOCK = "waiting for a lock"
BLOCKED = "blocked in a call that does not await"
UNEXPLAINED = "unexplained"

_SLOWEST = 0.1
_DEEPEST = 60
# What Python itself puts around what is awaited; those of Cython's coroutines, of the same name, lead to no lines.
_WRAPPERS = {("builtins", "coroutine_wrapper"), ("_asyncio", "FutureIter")}

# Files of libraries by what waiting in them means; the first that fits a frame, from the outside in.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "waiting for the database",
        (
            "/sqlalchemy/",
            "/asyncpg/",
            "/psycopg/",
            "/psycopg_pool/",
            "/aiosqlite/",
            "/aiomysql/",
            "/tortoise/",
            "/pymongo/",
        ),
    ),
    ("waiting for Redis", ("/redis/", "/valkey/", "/coredis/")),
    ("waiting for HTTP", ("/httpx/", "/httpcore/", "/aiohttp/", "/websockets/")),
    (
        LOCK,
        (
            "/asyncio/locks.py",
            "/asyncio/queues.py",
            "/anyio/_core/_synchronization.py",
            "/trio/_sync.py",
            "/trio/_channel.py",
        ),
    ),
    ("waiting for a thread", ("/asyncio/threads.py", "/anyio/to_thread.py", "/trio/_threads.py")),
    ("waiting for I/O", ("/asyncio/streams.py", "/anyio/streams/", "/trio/_socket.py", "/trio/_highlevel")),
)
_TIMERS = frozenset({"sleep", "sleep_until", "sleep_forever"})
_TIMER_FILES = ("/asyncio/tasks.py", "/anyio/_core/_eventloop.py", "/trio/_timeouts.py")
# anyio's locks on asyncio live in one file with everything else of it.
_LOCKS = ("Lock.acquire", "Semaphore.acquire", "Event.wait", "Condition.wait", "CapacityLimiter.acquire")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame behind an ``await``.

    Attributes:
        name: qualified name of the function.
        file: where it is defined.
        line: at which it waits.
    """

    name: str
    file: str
    line: int


@dataclass(slots=True)
class Call:
    """One traced call.

    Attributes:
        seconds: from its beginning to its end.
        causes: seconds by cause and place.
    """

    seconds: float = 0.0
    causes: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def add(self, cause: str, seconds: float, where: str = "") -> None:
        """Say what some of its time went to."""
        if seconds > 0:
            self.causes[cause, where] += seconds


def attribute(calls: Sequence[Call], notes: Iterable[str] = ()) -> Attribution:
    """What the slowest tenth of the calls spent their time on, the largest share first.

    Args:
        calls: all that were traced, ≥ 1.
        notes: what could not be seen.
    """
    slowest = sorted(calls, key=lambda call: call.seconds)[-max(1, ceil(len(calls) * _SLOWEST)) :]
    whole = sum(call.seconds for call in slowest)
    by_cause: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for call in slowest:
        for (cause, where), seconds in call.causes.items():
            by_cause[cause][where] += seconds
    rest = whole - sum(sum(places.values()) for places in by_cause.values())
    if rest > 0:
        by_cause[UNEXPLAINED][""] = rest
    causes = (
        Cause(name, seconds := sum(places.values()), min(1.0, seconds / whole), max(places, key=places.__getitem__))
        for name, places in by_cause.items()
        if whole
    )
    ordered = sorted(causes, key=lambda cause: cause.seconds, reverse=True)
    return Attribution(len(calls), len(slowest), tuple(ordered), tuple(notes))


def waiting_for(frames: Sequence[Frame]) -> tuple[str, str]:
    """What a coroutine waits for, and where the user's own code does so.

    Args:
        frames: from the outside in.
    """
    return _kind(frames), _place(frames)


def _kind(frames: Sequence[Frame]) -> str:
    for frame in frames:
        file = frame.file.replace("\\", "/")
        for kind, parts in _KINDS:
            if any(part in file for part in parts):
                return kind
        if frame.name.rpartition(".")[2] in _TIMERS and file.endswith(_TIMER_FILES):
            return "waiting for a timer"
        if "/anyio/_backends/" in file and frame.name.endswith(_LOCKS):
            return LOCK
    return f"waiting in {frames[-1].name}" if frames else "waiting"


def _place(frames: Sequence[Frame]) -> str:
    own = next((frame for frame in reversed(frames) if _is_users(frame.file)), None)
    if own is None:
        return ""
    path = Path(own.file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name
    return f"{own.name.replace('<locals>.', '')}, {shown}:{own.line}"


_LIBRARIES = tuple(
    {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        str(Path(__file__).parent),
    }
)


def _is_users(file: str) -> bool:
    return not file.startswith(_LIBRARIES) and not file.startswith("<")


def frames_behind(waiting: Any) -> list[Frame]:
    """The frames behind an ``await``, from the outside in; through a task that is awaited into its coroutine.

    Args:
        waiting: a suspended coroutine.
    """
    return list(_walk(waiting))


def _walk(waiting: Any) -> Iterator[Frame]:
    for _ in range(_DEEPEST):
        if waiting is None:
            return
        if callable(inner := getattr(waiting, "get_coro", None)):  # a task of asyncio
            waiting = inner()
            continue
        if (type(waiting).__module__, type(waiting).__name__) in _WRAPPERS:  # there is no public way through these
            waiting = next((one for one in gc.get_referents(waiting) if not isinstance(one, type)), None)
            continue
        for kind, behind in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                yield Frame(frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_lineno)
                waiting = getattr(waiting, behind)
                break
        else:
            return
