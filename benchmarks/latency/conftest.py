"""A clock, a unit of work, and neighbours who come and go."""

import random
import subprocess
import sys
import threading

import pytest
from loads import Unit

from pytest_isolation.latency.noise import MachineClock

# It ends with whoever has started it, in whatever way.
HOG = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


@pytest.fixture(scope="module")
def clock():
    return MachineClock()


@pytest.fixture
def neighbours():
    """None to three hogs, for a tenth of a second to three seconds at a time."""
    stop, rng = threading.Event(), random.Random(11)

    def come_and_go():
        while not stop.is_set():
            hogs = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(rng.randrange(4))]
            stop.wait(rng.uniform(0.1, 3))
            for hog in hogs:
                hog.kill()
                hog.wait()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.fixture(scope="module")
def unit():
    return Unit()
