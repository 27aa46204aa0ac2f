"""Ctrl-C: once to stop and see what was measured, twice to leave."""

import json
import signal

from commands import heard

LONG = ("--duration", "200", "--users", "10", "--rate", "100", "--burst-users", "0", "--target-p95", "60000")


def test_once_reports_what_was_measured(started, tmp_path):
    path = tmp_path / "load.json"
    process = started("--duration", "8", *LONG[2:], "--save", str(path), "--backend", "load.shop:Shop")
    heard(process, "steady:")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "stopping:" in err
    assert "Traceback" not in err
    assert "INTERRUPTED: what was measured until then is above" in out
    report = json.loads(path.read_text())
    assert report["interrupted"]
    assert [phase["name"] for phase in report["phases"]] == ["steady", "sustained"]
    assert report["phases"][0]["attempts"] > 100
    assert report["phases"][1]["seconds"] < 4


def test_twice_leaves_at_once(started):
    """Also when the backend answers nobody, and the patience of the load test is long."""
    process = started(*LONG, "--backend", "load.shop:Hanging", "--timeout", "1000")
    heard(process, "hanging")
    process.send_signal(signal.SIGINT)
    assert "requests are under way; Ctrl-C again to leave them" in heard(process, "stopping:")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
