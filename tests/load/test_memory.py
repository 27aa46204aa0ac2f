"""How the memory of a process is watched."""

import os
import sys

import pytest

from pytest_isolation import resident
from pytest_isolation.load import memory
from pytest_isolation.load.memory import Memory
from pytest_isolation.resident import resident_bytes


def readings(monkeypatch, values):
    """A process that holds these bytes at one reading after another, 200 requests apart."""
    held = iter(values)
    monkeypatch.setattr(memory, "resident_bytes", lambda _pid: next(held))
    watch = Memory(1)
    for number in range(len(values)):
        watch.read(200 * number)
    return watch.trend


def test_this_process_holds_some():
    assert resident_bytes(os.getpid()) > 1_000_000


def test_nobody_holds_nothing():
    assert resident_bytes(2**22 + 1) is None


@pytest.mark.skipif(sys.platform == "win32", reason="no ps")
def test_without_proc_the_system_is_asked(monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(resident, "open", lambda *_: (_ for _ in ()).throw(OSError), raising=False)
    assert resident_bytes(os.getpid()) > 1_000_000


def test_growth_is_told_for_a_thousand_requests_after_the_first_fifth(monkeypatch):
    """Which fills pools and caches."""
    filling = [n * 1_000_000 for n in range(10)]
    trend = readings(monkeypatch, filling + [10_000_000 + n * 200 for n in range(40)])
    assert trend.per_thousand_bytes == pytest.approx(1000)
    assert (trend.first_bytes, trend.last_bytes, trend.requests) == (0, 10_007_800, 39 * 200)


def test_a_short_run_says_that_it_is_too_short(monkeypatch):
    trend = readings(monkeypatch, [1000] * 5)
    assert trend.per_thousand_bytes is None
    assert "too short to tell" in trend.note


def test_without_a_reading_there_is_no_trend():
    watch = Memory(2**22 + 1)
    watch.read(0)
    assert watch.trend is None
