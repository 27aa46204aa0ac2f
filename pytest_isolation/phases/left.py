"""What goes on in this process: tasks, timers, threads, child processes, open sockets; and what is new among them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import socket
import stat
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from pytest_isolation.loops import SERVED, on_asyncio
from pytest_isolation.model import Leftover
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import User
from pytest_isolation.users.whereabouts import is_library

_PROC = Path("/proc/self")
# Their threads wait for work of anybody, or for a process that is seen itself.
_POOLS = frozenset({"concurrent", "anyio", "trio", "asyncio"})
# Their timers wake a task or stop one, and a task is seen itself.
_SOON_S = 1.0
_OF_TASKS = frozenset({"asyncio", "anyio", "async_timeout"})


@dataclass(frozen=True, slots=True)
class Alive:
    """What goes on at one moment.

    Attributes:
        tasks: of the running event loop, if it is asyncio's, and what users started in an application that is served.
        timers: likewise, each with what it will do and the user whose work has set it; empty where the loop shows none.
        threads: all that Python started, apart from those of pools.
        processes: the names of the children by number; empty where there is no ``/proc``.
        sockets: by inode, each with whom it speaks to; empty where there is no ``/proc``.
    """

    tasks: frozenset[asyncio.Task[Any]]
    timers: dict[asyncio.TimerHandle, tuple[str, User]]
    threads: frozenset[threading.Thread]
    processes: dict[int, str]
    sockets: dict[int, str]


def alive() -> Alive:
    """What goes on now."""
    return Alive(
        tasks=frozenset([*(asyncio.all_tasks() if on_asyncio() else ()), *_served_tasks()]),
        timers=dict(_timers()) if on_asyncio() else {},
        threads=frozenset(thread for thread in threading.enumerate() if not _is_pooled(thread)),
        processes=dict(_children()),
        sockets={inode: _peer(descriptor) for inode, descriptor in _sockets()},
    )


def new_since(before: Alive, users: Collection[User]) -> list[Leftover]:
    """What goes on now and did not then, apart from the users' own threads: who hangs in one has starved.

    What only took the place of another one of its kind is none: a timer that is set anew, a connection opened again.

    Args:
        before: what went on then.
        users: who have played since.
    """
    now, own = alive(), {repr(user) for user in users}
    threads = sorted(now.threads - before.threads, key=lambda thread: thread.name)
    new = [
        *(Leftover("task", _place(_code_of_task(task)), _whose(task, users)) for task in now.tasks - before.tasks),
        *(
            Leftover("timer", name, user._number)
            for timer, (name, user) in now.timers.items()
            if timer not in before.timers and user in users
        ),
        *(Leftover("thread", _place(_code_of_thread(one))) for one in threads if one.name not in own),
        *(Leftover("process", name) for pid, name in now.processes.items() if pid not in before.processes),
        *(Leftover("socket", name) for inode, name in now.sockets.items() if inode not in before.sockets),
    ]
    if not new:
        return new
    gone = Counter(
        [
            *(("task", _place(_code_of_task(task))) for task in before.tasks - now.tasks),
            *(("timer", name) for timer, (name, _) in before.timers.items() if timer not in now.timers),
            *(("thread", _place(_code_of_thread(one))) for one in before.threads - now.threads),
            *(("process", name) for pid, name in before.processes.items() if pid not in now.processes),
            *(("socket", name) for inode, name in before.sockets.items() if inode not in now.sockets),
        ]
    )
    left = []
    for one in new:
        if gone[one.what, one.name] > 0:
            gone[one.what, one.name] -= 1
        else:
            left.append(one)
    return left


def counted() -> Counter[tuple[str, str]]:
    """How many of each kind go on now, by what they are and their names."""
    now = alive()
    return Counter(
        [
            *(("task", _place(_code_of_task(task))) for task in now.tasks),
            *(("timer", name) for name, _ in now.timers.values()),
            *(("thread", _place(_code_of_thread(one))) for one in now.threads),
            *(("process", name) for name in now.processes.values()),
            *(("socket", name) for name in now.sockets.values()),
        ]
    )


def left_tasks(tasks: Iterable[asyncio.Task[Any]], users: Collection[User]) -> list[Leftover]:
    """Tasks that go on, each with whose it is, if it is one of these users'."""
    return [Leftover("task", _place(_code_of_task(task)), _whose(task, users)) for task in tasks]


def _served_tasks() -> Iterator[asyncio.Task[Any]]:
    """What goes on in the loops of applications, apart from what is the server's own."""
    for loop in [*SERVED]:
        yield from (task for task in asyncio.all_tasks(loop) if worker(task) is not None)


def _whose(task: asyncio.Task[Any], users: Collection[User]) -> int | None:
    """The number of the user in whose Context a task runs, if it is one of these."""
    user = worker(task)
    return user._number if user is not None and user in users else None


def worker(task: asyncio.Task[Any]) -> User | None:
    """The user in whose Context a task runs."""
    if hasattr(task, "get_context"):
        context = task.get_context()
    else:  # before Python 3.12 only the garbage collector knows it
        context = next((one for one in gc.get_referents(task) if isinstance(one, contextvars.Context)), None)
    return None if context is None else context.get(AT_WORK)


def _code_of_task(task: asyncio.Task[Any]) -> Any:
    coroutine: Any = task.get_coro()
    codes = (getattr(coroutine, name, None) for name in ("cr_code", "gi_code", "ag_code"))
    return next((code for code in codes if code is not None), coroutine)


def _code_of_thread(thread: threading.Thread) -> Any:
    return _code(getattr(thread, "_target", None) or type(thread).run)  # no public way to it


def _code(target: Any) -> Any:
    while hasattr(target, "func"):  # functools.partial
        target = target.func
    return getattr(getattr(target, "__func__", target), "__code__", target)


def _timers() -> Iterator[tuple[asyncio.TimerHandle, tuple[str, User]]]:
    """What a user's work has set to happen later than soon, and has not been called off."""
    loop = asyncio.get_running_loop()
    for timer in [*getattr(loop, "_scheduled", ())]:
        # One that is due soon need not be waited for: it will be gone by then.
        is_to_stay = not timer.cancelled() and timer.when() > loop.time() + _SOON_S
        user = timer._context.get(AT_WORK) if is_to_stay else None
        if user is None or _module(timer._callback) in _OF_TASKS:
            continue
        code = _code(timer._callback)
        # A library's own timer is its way of working, such as one that closes a connection which nobody uses.
        if not isinstance(code, CodeType) or not is_library(code.co_filename):
            yield timer, (_place(code), user)


def _module(callback: Any) -> str:
    while hasattr(callback, "func"):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    module = getattr(callback, "__module__", None) or type(owner).__module__
    return module.partition(".")[0]


def _place(code: Any) -> str:
    """``push at app.py:12``"""
    if not isinstance(code, CodeType):
        return str(getattr(code, "__qualname__", type(code).__qualname__))
    path = Path(code.co_filename)
    with suppress(OSError, ValueError):  # somewhere else, or the folder is gone
        path = path.relative_to(Path.cwd())
    return f"{code.co_qualname} at {path}:{code.co_firstlineno}"


def _is_pooled(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    module = getattr(target, "__module__", None) or type(thread).__module__
    return module.partition(".")[0] in _POOLS or type(thread) is threading._DummyThread


def _children() -> Iterator[tuple[int, str]]:
    """The child processes that have not ended, each with its name."""
    for thread in _listed(_PROC / "task"):
        with suppress(OSError):  # it ended meanwhile, or the kernel does not tell
            for pid in (thread / "children").read_text().split():
                name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
                if rest[:1] not in "ZX":
                    yield int(pid), name


def _sockets() -> Iterator[tuple[int, int]]:
    for entry in _listed(_PROC / "fd"):
        with suppress(OSError):  # the one with which the folder was read
            status = os.fstat(int(entry.name))
            if stat.S_ISSOCK(status.st_mode):
                yield status.st_ino, int(entry.name)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # not on this system
        return []


def _peer(fd: int) -> str:
    """Of what sort a socket is, and with whom it speaks."""
    try:
        with socket.socket(fileno=os.dup(fd)) as end:
            kind = end.family.name
            peer = end.getpeername() if end.family in (socket.AF_INET, socket.AF_INET6) else ()
    except OSError:
        return "not connected"
    return f"to {peer[0]}:{peer[1]}" if peer else kind
