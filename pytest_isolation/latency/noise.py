"""What the machine added to a latency, as far as the machine says so.

Two things are not the code's fault. The thread was ready and somebody else had its core: Linux counts that in
``/proc/thread-self/schedstat``. Or the core itself was slow for a while (a neighbour on the same silicon, a lowered
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
from statistics import median
from time import perf_counter, perf_counter_ns, process_time_ns, thread_time_ns
from typing import Protocol

_PATH = "/proc/thread-self/schedstat"
_EVERY_NS = 10_000_000
_KEPT = 4000
_KEPT_MARKS = 1000
_RECENT = 3
_SLOW = 1.02
# A reading at the end of one sample serves the next one that begins at once.
_FRESH_NS = 50_000
_FIRST = 12


# Where the clocks of a thread stood: for how long it had been ready to run and did not, and its CPU time (-1 where
# the core is at full speed, so that nobody will ask). A plain tuple, because two are made for every sample.
Mark = tuple[int, int]


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
    _nowhere = (0, -1)

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
        return thread.waited_ns, thread_time_ns() if self._slowdown > 1 else -1

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
        waited_ns = thread.waited_ns - since[0]
        if thread.read_ns > self._next_ns:
            self._probe()
        if not waited_ns and self._slowdown == 1:
            return 0.0
        waited_s = min(max(0, waited_ns - thread.others_ns()) / 1e9, seconds) if waited_ns else 0.0
        if self._slowdown == 1 or since[1] < 0:
            return waited_s
        # The marks lie outside of what was timed; of a very short sample they would be more than all of it.
        thread_s = min((thread_time_ns() - since[1]) / 1e9, seconds - waited_s)
        return waited_s + thread_s * (1 - 1 / self._slowdown)

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
        self._next_ns = perf_counter_ns() + _EVERY_NS


class _Thread:
    """The kernel's file on one thread; closed when the thread ends."""

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(64)
        self._address = ctypes.addressof(self._buffer)
        self._descriptor = -1
        self.readable = False
        self.waited_ns = self.read_ns = 0
        self.times: list[float] = []
        self.marks: list[Mark] = []
        self.note_others()
        if _pread is None:
            return
        try:
            self._descriptor = os.open(_PATH, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        weakref.finalize(self, os.close, self._descriptor)
        self.readable = _pread(self._descriptor, self._address, 64, 0) > 0

    def read(self) -> None:
        """Note for how long it has been ready to run and did not, in all, and when this was read."""
        if self.readable:
            # Read so that the GIL is kept: os.pread would hand it over just before the code that is timed, and hide
            # from the measurement that threads fight for it.
            _pread(self._descriptor, self._address, 64, 0)  # type: ignore[misc] # readable says that it is there
            self.waited_ns = int(self._buffer.value.split(b" ", 2)[1])
        self.read_ns = perf_counter_ns()

    def note_others(self) -> None:
        """Remember the CPU time of all other threads of the process."""
        self._others_ns = process_time_ns() - thread_time_ns()

    def others_ns(self) -> int:
        """CPU time of the other threads since it was last noted: for them this one waited on its own account."""
        return max(0, process_time_ns() - thread_time_ns() - self._others_ns)


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
