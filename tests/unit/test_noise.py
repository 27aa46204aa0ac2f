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

    def excused() -> float:
        mark, start, used = clock.start(), perf_counter(), thread_time()
        spin(0.02)
        took = perf_counter() - start
        return clock.lost_s(mark, took) / (took - (thread_time() - used))

    threads = [threading.Thread(target=hog) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        shares = [excused() for _ in range(8)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert min(shares) < 0.5  # a busy machine takes some of it for real


@needs_schedstat
def test_a_slowed_core_is_the_machines():
    """The fixed work takes twice as long as at its best: half of the CPU time is not the code's."""
    clock = MachineClock()
    clock._slowdown, clock._next_ns = 2.0, 1 << 62
    mark, used = clock.start(), thread_time()
    spin(0.01)
    used = thread_time() - used
    assert clock.lost_s(mark, used) >= 0.45 * used


@needs_schedstat
def test_of_a_very_short_sample_never_more_than_itself_is_the_machines():
    """Reading the clock takes longer than the sample."""
    clock = MachineClock()
    clock._slowdown, clock._next_ns = 2.0, 1 << 62
    assert clock.lost_s(clock.start(), 1e-7) == pytest.approx(5e-8)


@needs_schedstat
def test_a_mark_can_be_had_as_of_a_moment_that_is_past(neighbours):
    """What the machine added between then and now is added to what comes."""
    clock = MachineClock()
    late = lost = 0.0
    for _ in range(20):
        clock.as_of(perf_counter())
        due = perf_counter()
        spin(0.01)
        late += perf_counter() - due - 0.01
        lost += clock.lost_s(clock.as_of(due), perf_counter() - due)
    assert lost > 0.5 * late


@needs_schedstat
def test_what_the_machine_added_before_a_moment_excuses_nothing(neighbours):
    """A run that is due after an hour in which others had the core has lost nothing by that."""
    clock = MachineClock()
    clock.as_of(perf_counter())
    spin(0.2)
    begun = perf_counter()
    assert clock.lost_s(clock.as_of(begun - 0.001), 0.1) <= 0.001 + (perf_counter() - begun)


@pytest.mark.parametrize("said", [None, "0 0 0\n"])
def test_where_the_kernel_does_not_say_nothing_is_known_and_nothing_is_taken_away(monkeypatch, tmp_path, said):
    """macOS and Windows have no such file, and gVisor has one of zeros; not even a slowed core counts there."""
    if said is not None:
        (tmp_path / "schedstat").write_text(said)
    monkeypatch.setattr(noise, "_PATH", str(tmp_path / "schedstat"))
    clock = MachineClock()
    clock._slowdown, clock._next_ns = 2.0, 1 << 62
    assert not clock.known
    assert clock.lost_s(clock.start(), 1.0) == 0
    assert (clock.lost_here_s(clock.start(), 1.0), clock.lost_lately_s(1.0)) == (None, None)


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
def test_threads_that_come_and_go_meanwhile_disturb_nobody():
    """Each sees others begin and end between two looks, and all of them do the fixed work in turn."""
    clock, errors = MachineClock(), []

    def look():
        try:
            for _ in range(200):
                clock._next_ns = 0
                mark, start = clock.start(), perf_counter()
                took = perf_counter() - start
                assert 0 <= clock.lost_s(mark, took) <= took
        except Exception as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(4):
            threads = [threading.Thread(target=look) for _ in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(before)
    assert errors == []


@needs_schedstat
def test_of_a_mark_of_another_thread_nothing_can_be_told():
    """Where that one waited, this one may not have."""
    clock = MachineClock()
    with ThreadPoolExecutor(1) as pool:
        mark = pool.submit(clock.start).result()
    assert (clock.lost_here_s(mark, 1.0), clock.lost_s(mark, 1.0)) == (None, 0)


@needs_schedstat
def test_of_the_seconds_just_gone_it_can_be_told_what_was_the_machines(neighbours):
    """For what was timed elsewhere, and is only heard of."""
    clock = MachineClock()
    clock.as_of(perf_counter())
    whole = lost = 0.0
    for _ in range(20):
        start = perf_counter()
        spin(0.01)
        took = perf_counter() - start
        whole, lost = whole + took, lost + clock.lost_lately_s(took)
    assert lost > 0.5 * (whole - 20 * 0.01)


@needs_schedstat
def test_of_what_began_before_anybody_asked_it_cannot():
    """It may all have been the machine's, or none of it."""
    clock = MachineClock()
    assert clock.lost_lately_s(0.001) is None
    spin(0.001)
    assert clock.lost_lately_s(0.0005) is not None


def test_what_is_normal_is_learnt_from_the_whole_session():
    """A core that has been slow for the last minutes is slow still."""
    clock = MachineClock()
    for _ in range(6000):
        clock._slowdown_by(100)
    for _ in range(6000):
        slowdown = clock._slowdown_by(200)
    assert slowdown == 2


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

        def gone() -> int:
            count = 0
            for _ in range(300):
                mark, start = clock.start(), perf_counter()
                took = perf_counter() - start
                count += clock.lost_s(mark, took) >= took
            return count

        assert min(gone() for _ in range(5)) < 30  # a busy machine takes some of them for real
