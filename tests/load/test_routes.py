"""`isolation load` and `isolation profile` on an application that has other routes."""

import sys

import pytest

from pytest_isolation.cli import main

TOKEN = ("--token", "load.shop:token")
EXPECTED = "An application is asked POST /chat, GET /messages and WS /ws"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "tests:.")


def test_the_routes_that_are_expected_are_named_before_the_load(load):
    """And which one was asked, with the status once."""
    ended = load("--app", "load.elsewhere:app", *TOKEN)
    assert (ended.code, ended.report) == (1, None)
    assert "status 404: POST /chat: 404 Not Found; status 403: WS /ws: 403 the WebSocket was refused. " in ended.err
    assert EXPECTED in ended.err


def test_one_route_that_is_missing_is_said_at_once_too(load):
    """Nobody has to wait for the end of a load that is for nothing."""
    ended = load("--app", "load.elsewhere:without_messages", *TOKEN)
    first = ended.err.splitlines()[0]
    assert "attempts of a user who was alone failed: status 404: GET /messages: 404 Not Found. " in first
    assert EXPECTED in first


def test_a_profile_names_them_too(capsys, monkeypatch):
    """Beside the area that failed."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        main(
            [
                "profile",
                "--e2e",
                "--iterations",
                "20",
                "--backend",
                "load.shop:Shop",
                "--app",
                "load.elsewhere:app",
                *TOKEN,
            ]
        )
    assert end.value.code == 1
    assert f"e2e over HTTP failed: Refused: POST /chat: 404 Not Found. {EXPECTED}" in capsys.readouterr().out
