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
import random
import threading
import weakref
from bisect import bisect_right, insort
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
# A look at the end of one sample serves the next one that begins at once.
_FRESH_NS = 50_000
# A thread that was without a core for less than this has not waited for one: changing threads takes longer.
_OFF_NS = 2_000
_FIRST = 12
_TO_RUN_S = 0.02


# Of each other thread of the process for how long it had waited and run; which threads those were; the CPU time of the
# process. None where there are no others.
Beside = tuple[Sequence[tuple[int, int]], "tuple[_File, ...]", int]
# Where the clocks of a thread stood: for how long it had been ready to run and did not; its CPU time; which thread it
# is; the others. A plain tuple: every sample needs one.
Mark = tuple[int, int, int, Beside | None]
_NOWHERE: Mark = (0, 0, 0, None)


class Clock(Protocol):
    """What a sampler asks.

    Attributes:
        known: it can tell at all.
    """

    known: bool

    def start(self) -> Mark:
        """Where the clocks of the calling thread stand."""

    def as_of(self, due: float) -> Mark:
        """Where they stood at a moment (of ``perf_counter``) that is past, as far as that can be told."""

    def lost_s(self, since: Mark, seconds: float) -> float:
        """How many of the seconds that were timed since a mark of the same thread were the machine's."""

    def lost_here_s(self, since: Mark, seconds: float) -> float | None:
        """The same; None where that cannot be told, because the mark is of another thread, or there is no clock."""

    def lost_lately_s(self, seconds: float) -> float | None:
        """How many of the seconds that end now were the machine's; None where that cannot be told."""


class NoClock:
    """Knows nothing: all of a latency is taken for the code's own."""

    known = False

    def start(self) -> Mark:
        """The same mark every time."""
        return _NOWHERE

    def as_of(self, due: float) -> Mark:
        """The same mark every time."""
        return _NOWHERE

    def lost_s(self, since: Mark, seconds: float) -> float:
        """Nothing."""
        return 0.0

    def lost_here_s(self, since: Mark, seconds: float) -> None:
        """It cannot be told."""

    def lost_lately_s(self, seconds: float) -> None:
        """It cannot be told."""


class MachineClock:
    """Reads what the machine says of the calling thread; one for a whole session, so that it learns what is normal.

    Attributes:
        known: the kernel tells how long a thread waited for a core.
    """

    def __init__(self) -> None:
        self._threads = threading.local()
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._ordered: list[int] = []
        self._probed = 0
        self._lots = random.Random(0)
        self._probing = threading.Lock()
        self._next_ns = 0
        self._slowdown = 1.0
        self._helpers: tuple[_File, ...] = ()
        for _ in range(_FIRST):
            self._probe()
        self.known = self._thread().counts()

    def start(self) -> Mark:
        """Where the clocks of the calling thread stand."""
        if not self.known:
            return _NOWHERE
        try:  # as in _thread(), whose call would cost a tenth of all this
            thread: _Thread = self._threads.thread
        except AttributeError:
            thread = self._thread()
        now_ns = perf_counter_ns()
        if now_ns > self._next_ns:
            self._probe()
            thread.note_others()
            thread.look()
        elif now_ns - thread.seen_ns > _FRESH_NS:
            thread.look()
        helpers = self._helpers  # as they are now: another thread may replace them meanwhile
        if not helpers:
            return thread.waited_ns, thread.cpu_ns, thread.number, None
        beside = _read(helpers, thread), helpers, process_time_ns()
        return thread.waited_ns, thread_time_ns(), thread.number, beside

    def as_of(self, due: float) -> Mark:
        """Where they stood at a moment that is past: a run may begin long after it was due.

        What the machine added since then is what it added since this was last asked before, and at most all of the
        time: so no idle hour before a run excuses the run.

        Args:
            due: on the clock of ``perf_counter``.
        """
        thread, now = self._thread(), perf_counter()
        asked_before = bisect_right(thread.times, due) - 1
        lost_s = self.lost_s(thread.marks[asked_before], now - due) if asked_before >= 0 and due < now else 0.0
        mark = self.start()
        thread.times.append(now)
        thread.marks.append(mark)
        if len(thread.times) > 2 * _KEPT_MARKS:
            del thread.times[:_KEPT_MARKS], thread.marks[:_KEPT_MARKS]
        return (mark[0] - round(lost_s * 1e9), *mark[1:])

    def lost_s(self, since: Mark, seconds: float) -> float:
        """How many of the seconds that were timed since a mark of the same thread were the machine's."""
        return self.lost_here_s(since, seconds) or 0.0

    def lost_here_s(self, since: Mark, seconds: float) -> float | None:
        """The same; None where that cannot be told, because the mark is of another thread, or there is no clock."""
        waited_before, cpu_before, number, beside = since
        try:
            thread: _Thread = self._threads.thread
        except AttributeError:  # one that ends what another one began
            return None
        if number != thread.number or not self.known:
            return None
        thread.look()
        waited_ns, slowdown = thread.waited_ns - waited_before, self._slowdown
        if not waited_ns and slowdown == 1 and beside is None and thread.seen_ns <= self._next_ns:
            return 0.0
        cpu_ns = thread.cpu_ns - cpu_before
        if beside is not None and beside[1] is self._helpers:
            lost_ns = _lost_beside(beside, thread, waited_ns, cpu_ns)
        else:
            lost_ns = max(0, waited_ns - thread.others_ns()) if waited_ns else 0
        if thread.seen_ns > self._next_ns:
            self._probe()
            thread.note_others()
        waited_s = min(lost_ns / 1e9, seconds)
        # The marks lie outside of what was timed; of a very short sample they would be more than all of it.
        return waited_s + min(cpu_ns / 1e9, seconds - waited_s) * (1 - 1 / slowdown)

    def lost_lately_s(self, seconds: float) -> float | None:
        """How many of the seconds that end now were the machine's.

        None where that cannot be told: there is no clock, or nobody had asked on this thread when they began.
        """
        thread, begun = self._thread(), perf_counter() - seconds
        can_tell = self.known and bool(thread.times) and thread.times[0] <= begun
        mark = self.as_of(begun)
        return self.lost_s(mark, seconds) if can_tell else None

    def _thread(self) -> _Thread:
        try:
            thread: _Thread = self._threads.thread
        except AttributeError:
            thread = self._threads.thread = _Thread()
        return thread

    def _probe(self) -> None:
        """Do the fixed work, and see how slow the core is now against its own best quarter; one thread at a time."""
        if not self._probing.acquire(blocking=False):
            return
        try:
            self._slowdown = self._slowdown_by(_probed())
            self._look_for_helpers()
            self._next_ns = perf_counter_ns() + _EVERY_NS
        finally:
            self._probing.release()

    def _slowdown_by(self, took_ns: int) -> float:
        """How slow the core is, by the latest probes and a fair choice of all that there were before."""
        self._recent.append(took_ns)
        self._probed += 1
        if len(self._ordered) < _KEPT:
            insort(self._ordered, took_ns)
        elif (place := self._lots.randrange(self._probed)) < _KEPT:  # Vitter, algorithm R
            del self._ordered[place]
            insort(self._ordered, took_ns)
        best = self._ordered[len(self._ordered) // 4]
        slowdown = median(self._recent) / best if best else 1.0  # a coarse clock says nothing
        return slowdown if slowdown > _SLOW else 1.0

    def _look_for_helpers(self) -> None:
        """See which threads there are; nearly always they are the same, and mostly there is but one.

        They are replaced in one go, never changed: a mark holds those of its time, and by that one knows.
        """
        there = {thread.native_id for thread in threading.enumerate() if thread.native_id is not None}
        if len(there) == 1 or len(there) > _MOST_HELPERS:
            there = set()
        before = {file.number: file for file in self._helpers}
        if there != before.keys():
            self._helpers = tuple(before.get(number) or _File(_OTHERS.format(number), number) for number in there)


def _read(helpers: tuple[_File, ...], thread: _Thread) -> list[tuple[int, int]]:
    """Of each thread but the calling one for how long it has waited and run."""
    return [file.read() for file in helpers if file.number != thread.number]


def _lost_beside(beside: Beside, thread: _Thread, waited_ns: int, cpu_ns: int) -> int:
    """How long this thread and the others waited since a mark, without what the process did itself meanwhile."""
    before, helpers, process_before = beside
    process_ns = process_time_ns() - process_before
    return _beyond(waited_ns, process_ns - cpu_ns) + sum(
        _beyond(waited - waited_then, process_ns - (ran - ran_then))
        for (waited, ran), (waited_then, ran_then) in zip(_read(helpers, thread), before, strict=True)
    )


class _File:
    """The kernel's file on one thread; closed with the object.

    Args:
        path: of the file.
        number: of the thread.
    """

    def __init__(self, path: str, number: int) -> None:
        self.number = number
        self._buffer = ctypes.create_string_buffer(64)
        self._address = ctypes.addressof(self._buffer)
        self._descriptor = -1
        self._last = 0, 0
        self._is_readable = False
        if _pread is None:
            return
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        weakref.finalize(self, os.close, self._descriptor)
        self._is_readable = _pread(self._descriptor, self._address, 64, 0) > 0

    def read(self) -> tuple[int, int]:
        """For how long the thread has been ready to run and did not, in all, and for how long it has run."""
        # Read so that the GIL is kept: os.pread would hand it over just before the code that is timed, and hide from
        # the measurement that threads fight for it. Of a thread that has ended, the last figures stay.
        if self._is_readable and _pread(self._descriptor, self._address, 64, 0) > 0:  # type: ignore[misc] # it is there
            ran, waited, _ = self._buffer.value.split(b" ", 2)
            self._last = int(waited), int(ran)
        return self._last

    def counts(self) -> bool:
        """Whether the kernel fills it in for the calling thread; where it does not, nothing but zeros are there."""
        begun = perf_counter()
        while self._is_readable and not self.read()[1]:  # a thread that is young may not have been counted yet
            if perf_counter() - begun > _TO_RUN_S:
                return False
        return self._is_readable


class _Thread(_File):
    """The calling thread, and what it has to remember between two looks.

    Attributes:
        waited_ns: for how long it has been ready to run and did not, in all.
        cpu_ns: its CPU time.
        seen_ns: when that was.
    """

    def __init__(self) -> None:
        super().__init__(_PATH, threading.get_native_id())
        self.times: list[float] = []
        self.marks: list[Mark] = []
        self.waited_ns, _ = self.read()
        self.seen_ns, self.cpu_ns = perf_counter_ns(), thread_time_ns()
        self.note_others()

    def look(self) -> None:
        """See how long the thread has waited; who was on a core all the time has not, and the file can stay closed."""
        now_ns, cpu_ns = perf_counter_ns(), thread_time_ns()
        if now_ns - self.seen_ns - cpu_ns + self.cpu_ns > _OFF_NS:
            self.waited_ns, _ = self.read()
        self.seen_ns, self.cpu_ns = now_ns, cpu_ns

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


def _probed() -> int:
    """The CPU time of the fixed work, now."""
    _fixed_work(60)  # what it touches is in the caches then, whatever came before
    begun = thread_time_ns()
    _fixed_work(600)
    return thread_time_ns() - begun


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
