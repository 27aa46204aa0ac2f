"""What is refused, before anything is measured; and how it ends early."""

import json
import signal
import sys

import pytest
from commands import heard


@pytest.mark.parametrize(
    "options, said",
    [
        (("--iterations", "5"), "a whole number ≥ 20, not '5'"),
        (("--iterations", "many"), "a whole number ≥ 20, not 'many'"),
        (("--users", "0"), "a whole number ≥ 1, not '0'"),
        (("--seed", "-1"), "a whole number ≥ 0"),
        (("--backend", "shop"), "--backend takes a module and a name in it, such as shop.backend:create, not 'shop'"),
        (("--backend", "profiling.kiosk:Kios"), "has no 'Kios'; did you mean 'Kiosk'?"),
        (("--backend", "nowhere:create"), "there is no module 'nowhere' to import"),
        (("--backend", "profiling.kiosk:Unstartable"), "its start() raised ConnectionError: nobody listens on port 1"),
        (("--backend", "profiling.kiosk:WithoutAgents"), "it has no agent, so nobody can ask it anything"),
        (("--compare", "fast"), "--compare takes minimal, balanced, maximum, naive or MOD:FACTORY, not 'fast'"),
        (("--compare", "profiling.kiosk:Unstartable"), "profiling.kiosk:Unstartable: its start() raised"),
        (("--save", "report.txt"), "the path of a file that ends in .json, not 'report.txt'"),
        (("--app", "shop"), "--app takes a module and a name in it, such as shop.app:app"),
        (("--app", "nowhere:app"), "--app is measured by --websocket and --e2e"),
        (("--e2e", "--app", "nowhere:app"), "nowhere"),
        (("--backend", "profiling.kiosk:Kiosk", "--token", "shop:token"), "--token goes with --app"),
        (("--target", "agent.creat=5"), "there is no stage 'agent.creat'; did you mean 'agent.create'?"),
        (
            ("--target", "agent.create"),
            "--target agent.create: a target is a number of milliseconds > 0: agent.create=5",
        ),
        (("--target", "agent.create=0"), "a target is a number of milliseconds > 0: agent.create=5"),
        (("--stages",), "unrecognized arguments: --stages"),
    ],
)
def test_wrong_usage_says_the_right_form(profile, options, said):
    ended = profile("--factory", "--iterations", "20", *options)
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_without_the_libraries_for_sockets_the_error_names_the_extra(profile, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ended = profile("--e2e")
    assert ended.code == 2
    assert "pip install 'pytest-isolation[load]'" in ended.err


def test_ctrl_c_keeps_what_was_measured(command, tmp_path):
    """And leaves the backend closed."""
    path = tmp_path / "profile.json"
    process = command("profile", "--backend", "profiling.kiosk:Stuck", "--iterations", "150", "--save", str(path))
    heard(process, "stuck")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "INTERRUPTED: what was measured until then is above" in out
    report = json.loads(path.read_text())
    first, second, *_ = report["results"]
    assert [verdict["samples"] for verdict in first["verdicts"]] == [150, 150, 150]
    assert second["interrupted"]


def test_without_a_path_it_is_saved_beside_where_it_was_started(profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert profile("--factory", "--iterations", "20", "--save").code == 0
    assert json.loads((tmp_path / "isolation-profile.json").read_text())["results"]


def test_a_backend_is_closed_also_when_it_failed(profile, monkeypatch):
    from profiling import kiosk

    made = []
    monkeypatch.setattr(kiosk.Broken, "__init__", lambda self: (kiosk.Kiosk.__init__(self), made.append(self))[0])
    profile("--factory", "--backend", "profiling.kiosk:Broken")
    assert [backend.open for backend in made] == [0]
