"""`isolation load` against applications, over real sockets."""

import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from commands import heard
from e2e.conftest import SECRET, Process
from load.conftest import children

TOKEN = ("--token", "load.shop:token")
PATIENT = ("--max-error-rate", "0")


def test_the_reference_application_is_served_and_passes(load, monkeypatch):
    """In a process of its own, which is gone at the end."""
    monkeypatch.delenv("REFERENCE_TOKEN_SECRET", raising=False)
    before = children()
    ended = load("--app", "reference_impl.app:create_app", "--rate", "50", "--duration", "1", *PATIENT)
    assert ended.report["failures"] == []
    assert ended.report["leaks"] == 0
    assert {line["operation"] for line in ended.report["lines"]} == {"chat", "websocket", "messages", "idle"}
    assert all(line["attempts"] for line in ended.report["lines"] if line["phase"] != "mixed")
    assert ended.report["memory"]["first_bytes"] > 1_000_000
    assert children() <= before


def test_an_application_that_leaks_is_caught_and_its_twin_is_silent(load, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "tests:.")
    leaking = load("--app", "load.shop:leaking_app", "--rate", "80", "--duration", "1", *TOKEN)
    assert leaking.code == 1
    assert leaking.report["findings"]
    assert "LEAK  user-" in leaking.out
    correct = load("--app", "load.shop:correct_app", "--rate", "80", "--duration", "1", *TOKEN)
    assert (correct.report["leaks"], correct.report["failures"]) == (0, [])


@pytest.fixture
def server():
    """The reference application as somebody else would run it."""
    process = Process()
    process.start()
    yield process
    if process.is_running:
        process.signal(signal.SIGTERM)
    process.wait()


def test_a_server_that_runs_already_is_put_under_load(load, server, monkeypatch):
    """And runs on."""
    monkeypatch.setenv("REFERENCE_TOKEN_SECRET", SECRET)
    ended = load("--url", f"http://127.0.0.1:{server.port}", "--rate", "50", "--duration", "1")
    assert (ended.report["leaks"], ended.report["failures"]) == (0, [])
    assert ended.report["memory"] is None
    assert "memory     not watched" in ended.out
    assert server.is_running


def test_a_wrong_secret_is_noticed_before_the_load(load, server, monkeypatch):
    monkeypatch.setenv("REFERENCE_TOKEN_SECRET", "another")
    ended = load("--url", f"http://127.0.0.1:{server.port}")
    assert ended.code == 1
    assert "got no answer: status 401" in ended.err


def test_nobody_at_the_address_is_noticed_before_the_load(load, monkeypatch):
    ended = load("--url", "http://127.0.0.1:1", *TOKEN)
    assert ended.code == 1
    assert "connection lost: ConnectError" in ended.err


@pytest.mark.soak
def test_a_server_that_dies_meanwhile_is_so_many_lost_connections(started, server, monkeypatch):
    """Each of them an attempt that failed, and the load goes on."""
    monkeypatch.setenv("REFERENCE_TOKEN_SECRET", SECRET)
    options = ("--duration", "4", "--users", "10", "--rate", "50", "--burst-users", "0")
    process = started("--url", f"http://127.0.0.1:{server.port}", *options)
    heard(process, "steady:")
    server.signal(signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert re.search(r"\d+ × connection lost, for example: ", out)
    assert "mixed: " in err


def test_the_server_ends_with_a_load_test_that_was_killed(started):
    """Nobody else would end it."""
    process = started("--app", "reference_impl.app:create_app", "--duration", "100", "--rate", "10", "--users", "2")
    child = _child(process)
    process.kill()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running()


def _child(process):
    for _ in range(2000):
        if found := psutil.Process(process.pid).children():
            return found[0]
        time.sleep(0.01)
    raise AssertionError("it never started a server")


def test_a_server_that_has_nothing_to_serve_ends_without_a_crash():
    """Whoever started it has not closed its input, which a thread reads."""
    child = subprocess.Popen(
        [sys.executable, "-m", "pytest_isolation.load.child", "nowhere:app"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    said = child.stderr.read()
    child.communicate()
    assert "nowhere" in said
    assert "Fatal Python error" not in said
    assert child.returncode == 3
