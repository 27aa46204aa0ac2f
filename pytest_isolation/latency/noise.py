"""What the machine added to a latency, as far as the machine says so.

Two things are not the code's fault. The thread was ready and somebody else had its core: Linux counts that in
``/proc/thread-self/schedstat``, and so it does for the other threads of the process, on one of which a database driver
may do what the first one waits for. Or the core itself was slow for a while (a neighbour on the same silicon, a lowered
clock): a fixed piece of work, done every ten milliseconds, takes more CPU time than in its best quarter of the session.

What this process does to itself is never excused: waiting for its other threads, for the GIL, a lock or the loop.
What is excused is a lower bound of the code's own time: of a body that waits for I/O anyway, the wait for a core may
have cost nothing. Child processes of a test count as somebody else.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from statistics import median
from time import perf_counter, perf_counter_ns, process_time_ns, thread_time_ns
from typing import Protocol

_PATH = "/proc/thread-self/schedstat"
_OTHERS = "/proc/self/task/{}/schedstat"
_MOST_HELPERS = 16  # reading them all would cost more than it tells
_EVERY_NS = 10_000_000
_KEPT = 4000
_KEPT_MARKS = 1000
_RECENT = 3
_SLOW = 1.02
# A reading at the end of one sample serves the next one that begins at once.
_FRESH_NS = 50_000
_FIRST = 12


# Where the clocks of a thread stood: for how long it had been ready to run and did not; its CPU time (-1 where the core
# is at full speed, so that nobody will ask); of each of the other threads for how long it had waited and run, which
# threads that were, and the CPU time of the process (0 where there is no other). A plain tuple: every sample needs one.
Mark = tuple[int, int, Sequence[tuple[int, int]], int, int]


class Clock(Protocol):
    """What a sampler asks.

    Attributes:
        known: it can tell at all.
    """

    known: bool

    def start(self) -> Mark:
        """Where the clocks of the calling thread stand."""

    def as_of(self, due: float) -> Mark:
        """Where they stood at a moment (of ``perf_counter``), as far as they were asked then."""

    def lost_s(self, since: Mark, seconds: float) -> float:
        """How many of the seconds that were timed since a mark of the same thread were the machine's."""


class NoClock:
    """Knows nothing: all of a latency is taken for the code's own."""

    known = False
    _nowhere: Mark = (0, -1, (), 0, 0)

    def start(self) -> Mark:
        """The same mark every time."""
        return self._nowhere

    def as_of(self, due: float) -> Mark:
        """The same mark every time."""
        return self._nowhere

    def lost_s(self, since: Mark, seconds: float) -> float:
        """Nothing."""
        return 0.0


class MachineClock:
    """Reads what the machine says of the calling thread; one for a whole session, so that it learns what is normal.

    Attributes:
        known: the kernel tells how long a thread waited for a core.
    """

    def __init__(self) -> None:
        self._threads = threading.local()
        self._speeds: deque[int] = deque()
        self._ordered: list[int] = []
        self._next_ns = 0
        self._slowdown = 1.0
        self._helpers: dict[int, _File] = {}
        self._generation = 0
        for _ in range(_FIRST):
            self._probe()
        self.known = self._thread().readable

    def start(self) -> Mark:
        """Where the clocks of the calling thread stand."""
        thread = self._thread()
        now_ns = perf_counter_ns()
        if now_ns > self._next_ns:
            self._probe()
            thread.note_others()
            thread.read()
        elif now_ns - thread.read_ns > _FRESH_NS:
            thread.read()
        if not self._helpers:
            return thread.waited_ns, thread_time_ns() if self._slowdown > 1 else -1, (), 0, 0
        return thread.waited_ns, thread_time_ns(), self._helpers_now(thread), self._generation, process_time_ns()

    def as_of(self, due: float) -> Mark:
        """Where they stood at a moment, as far as this was asked then: a run may begin long after it was due.

        Args:
            due: on the clock of ``perf_counter``.

        Returns:
            The latest mark of this method that is not after the moment; if there is none, the first one kept.
        """
        thread, now, mark = self._thread(), perf_counter(), self.start()
        thread.times.append(now)
        thread.marks.append(mark)
        if len(thread.times) > 2 * _KEPT_MARKS:
            del thread.times[:_KEPT_MARKS], thread.marks[:_KEPT_MARKS]
        return thread.marks[max(0, bisect_right(thread.times, due) - 1)]

    def lost_s(self, since: Mark, seconds: float) -> float:
        """How many of the seconds that were timed since a mark of the same thread were the machine's."""
        thread = self._thread()
        thread.read()
        waited_before, cpu_before, helpers_before, generation, process_before = since
        waited_ns = thread.waited_ns - waited_before
        if thread.read_ns <= self._next_ns and not waited_ns and self._slowdown == 1 and not process_before:
            return 0.0
        cpu_ns = thread_time_ns() - cpu_before
        # For what the rest of this process did meanwhile a thread waited on its own account.
        if process_before and generation == self._generation:
            process_ns = process_time_ns() - process_before
            lost_ns = _beyond(waited_ns, process_ns - cpu_ns) + sum(
                _beyond(waited - waited_then, process_ns - (ran - ran_then))
                for (waited, ran), (waited_then, ran_then) in zip(
                    self._helpers_now(thread), helpers_before, strict=True
                )
            )
        else:
            lost_ns = max(0, waited_ns - thread.others_ns()) if waited_ns else 0
        if thread.read_ns > self._next_ns:
            self._probe()
            thread.note_others()
        waited_s = min(lost_ns / 1e9, seconds)
        if self._slowdown == 1 or cpu_before < 0:
            return waited_s
        # The marks lie outside of what was timed; of a very short sample they would be more than all of it.
        return waited_s + min(cpu_ns / 1e9, seconds - waited_s) * (1 - 1 / self._slowdown)

    def _thread(self) -> _Thread:
        try:
            thread: _Thread = self._threads.thread
        except AttributeError:
            thread = self._threads.thread = _Thread()
        return thread

    def _probe(self) -> None:
        """Do the fixed work, and see how slow the core is now against its own best quarter."""
        _fixed_work(60)  # what it touches is in the caches then, whatever came before
        begun = thread_time_ns()
        _fixed_work(600)
        took_ns = thread_time_ns() - begun
        self._speeds.append(took_ns)
        insort(self._ordered, took_ns)
        if len(self._speeds) > _KEPT:
            del self._ordered[bisect_left(self._ordered, self._speeds.popleft())]
        recent = [self._speeds[-index] for index in range(1, min(_RECENT, len(self._speeds)) + 1)]
        best = self._ordered[len(self._ordered) // 4]
        slowdown = median(recent) / best if best else 1.0  # a coarse clock says nothing
        self._slowdown = slowdown if slowdown > _SLOW else 1.0
        self._look_for_helpers()
        self._next_ns = perf_counter_ns() + _EVERY_NS

    def _look_for_helpers(self) -> None:
        """See which threads there are; nearly always they are the same, and mostly there is but one."""
        there = {thread.native_id for thread in threading.enumerate() if thread.native_id is not None}
        if len(there) == 1 or len(there) > _MOST_HELPERS:
            there = set()
        if there != self._helpers.keys():
            self._helpers = {number: self._helpers.get(number) or _File(_OTHERS.format(number)) for number in there}
            self._generation += 1

    def _helpers_now(self, thread: _Thread) -> Sequence[tuple[int, int]]:
        """Of each other thread for how long it has waited and run."""
        helpers = [file for number, file in self._helpers.items() if number != thread.number]
        for file in helpers:
            file.read()
        return [(file.waited_ns, file.ran_ns) for file in helpers]


class _File:
    """The kernel's file on one thread; closed with the object."""

    def __init__(self, path: str) -> None:
        self._buffer = ctypes.create_string_buffer(64)
        self._address = ctypes.addressof(self._buffer)
        self._descriptor = -1
        self.readable = False
        self.waited_ns = self.ran_ns = self.read_ns = 0
        if _pread is None:
            return
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        weakref.finalize(self, os.close, self._descriptor)
        self.readable = _pread(self._descriptor, self._address, 64, 0) > 0

    def read(self) -> None:
        """Note for how long the thread has been ready to run and did not, in all, and when this was read."""
        # Read so that the GIL is kept: os.pread would hand it over just before the code that is timed, and hide from
        # the measurement that threads fight for it. Of a thread that has ended, the last figure stays.
        if self.readable and _pread(self._descriptor, self._address, 64, 0) > 0:  # type: ignore[misc] # it is there
            ran, waited, _ = self._buffer.value.split(b" ", 2)
            self.ran_ns, self.waited_ns = int(ran), int(waited)
        self.read_ns = perf_counter_ns()


class _Thread(_File):
    """The calling thread, and what it has to remember between two readings."""

    def __init__(self) -> None:
        super().__init__(_PATH)
        self.number = threading.get_native_id()
        self.times: list[float] = []
        self.marks: list[Mark] = []
        self.note_others()

    def note_others(self) -> None:
        """Remember the CPU time of all other threads of the process."""
        self._others_ns = process_time_ns() - thread_time_ns()

    def others_ns(self) -> int:
        """CPU time of the other threads since it was last noted: for them this one waited on its own account."""
        return max(0, process_time_ns() - thread_time_ns() - self._others_ns)


def _beyond(waited_ns: int, others_ns: int) -> int:
    """How much longer a thread waited than the others of its process ran.

    The clocks are read one after another, so that of the others can seem to have gone backwards.
    """
    return max(0, waited_ns - max(0, others_ns))


def _fixed_work(amount: int) -> None:
    """What Python mostly does, some forty microseconds of it; the garbage collector counts nothing of it."""
    table: dict[int, str] = {}
    for number in range(amount):
        table[number & 31] = str(number)


def _find_pread() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.PyDLL(None).pread
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_longlong)
    function.restype = ctypes.c_ssize_t
    return function


_pread = _find_pread()
