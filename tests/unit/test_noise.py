"""What the machine adds is told from what the process does to itself."""

import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, thread_time

import pytest

from pytest_isolation.latency import noise
from pytest_isolation.latency.noise import MachineClock, NoClock

DESCRIPTORS = Path("/proc/self/fd")
needs_schedstat = pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="this kernel does not say how long threads wait"
)


def spin(seconds: float) -> None:
    """Use so much CPU time."""
    start = thread_time()
    while thread_time() - start < seconds:
        pass


@pytest.fixture
def neighbours():
    """A busy process more than there are cores."""
    hogs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(multiprocessing.cpu_count() + 1)
    ]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


@needs_schedstat
def test_waiting_for_a_core_is_the_machines(neighbours):
    """Most of what the wall clock shows beyond the CPU time."""
    clock = MachineClock()
    assert clock.known
    whole = lost = cpu = 0.0
    for _ in range(20):
        mark, start, used = clock.start(), perf_counter(), thread_time()
        spin(0.01)
        took = perf_counter() - start
        whole, cpu, lost = whole + took, cpu + thread_time() - used, lost + clock.lost_s(mark, took)
    assert whole - cpu > 0.02
    assert lost > 0.5 * (whole - cpu)


@needs_schedstat
def test_waiting_for_the_own_threads_is_not_excused():
    """They fight for the GIL, and are the process's own."""
    clock, stop = MachineClock(), threading.Event()

    def hog():
        while not stop.is_set():
            pass

    threads = [threading.Thread(target=hog) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        mark, start, used = clock.start(), perf_counter(), thread_time()
        spin(0.02)
        took = perf_counter() - start
        waited, lost = took - (thread_time() - used), clock.lost_s(mark, took)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert lost < 0.5 * waited


def test_a_slowed_core_is_the_machines():
    """The fixed work takes twice as long as at its best: half of the CPU time is not the code's."""
    clock = MachineClock()
    clock._slowdown, clock._next_ns = 2.0, 1 << 62
    mark, used = clock.start(), thread_time()
    spin(0.01)
    used = thread_time() - used
    assert clock.lost_s(mark, used) >= 0.45 * used


def test_of_a_very_short_sample_never_more_than_itself_is_the_machines():
    """Reading the clock takes longer than the sample."""
    clock = MachineClock()
    clock._slowdown, clock._next_ns = 2.0, 1 << 62
    assert clock.lost_s(clock.start(), 1e-7) == pytest.approx(5e-8)


def test_a_mark_can_be_had_as_of_a_moment_that_is_past():
    """The latest that was taken then."""
    clock = MachineClock()
    clock._slowdown, clock._next_ns = 2.0, 1 << 62
    first = clock.as_of(perf_counter())
    between = perf_counter()
    spin(0.001)
    assert clock.as_of(between) == first
    assert clock.as_of(perf_counter() + 1) != first


def test_where_the_kernel_does_not_say_it_is_not_known(monkeypatch):
    """macOS, Windows, gVisor: only a slowed core is seen there."""
    monkeypatch.setattr(noise, "_PATH", "/proc/there-is-no-such-file")
    clock = MachineClock()
    assert not clock.known
    assert clock.lost_s(clock.start(), 1.0) < 1


def test_a_clock_that_counts_in_ticks_says_nothing(monkeypatch):
    """As on Windows, where CPU time moves by 15 ms."""
    monkeypatch.setattr(noise, "thread_time_ns", lambda: 0)
    assert MachineClock().lost_s(MachineClock().start(), 1.0) == 0


@needs_schedstat
def test_no_descriptor_outlives_its_thread():
    """A crowd in threads has one each; those of two that were looked at last may be open still."""
    clock = MachineClock()
    before = len(list(DESCRIPTORS.iterdir()))
    for _ in range(20):
        thread = threading.Thread(target=clock.start)
        thread.start()
        thread.join()
    assert len(list(DESCRIPTORS.iterdir())) <= before + 2


def test_no_clock_knows_nothing():
    """All of a latency is the code's own."""
    clock = NoClock()
    assert (clock.known, clock.lost_s(clock.start(), 1.0), clock.lost_s(clock.as_of(0.0), 1.0)) == (False, 0.0, 0.0)


@needs_schedstat
def test_waiting_for_a_core_in_another_thread_is_the_machines_too(neighbours):
    """A database driver may do its work there, and the first thread waits for that."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(spin, 0.001).result()
        clock = MachineClock()
        whole = lost = 0.0
        for _ in range(20):
            mark, start = clock.start(), perf_counter()
            pool.submit(spin, 0.01).result()
            took = perf_counter() - start
            whole, lost = whole + took, lost + clock.lost_s(mark, took)
    waited = whole - 20 * 0.01
    assert waited > 0.02
    assert lost > 0.3 * waited


@needs_schedstat
def test_an_idle_thread_beside_it_takes_nothing_from_a_sample_of_nothing():
    """The clocks are read one after another; what lies between two readings is no wait."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(spin, 0.001).result()
        clock = MachineClock()
        gone = 0
        for _ in range(300):
            mark, start = clock.start(), perf_counter()
            took = perf_counter() - start
            gone += clock.lost_s(mark, took) >= took
    assert gone < 30
