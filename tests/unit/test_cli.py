"""isolation serve"""

import sys

import pytest

from pytest_isolation.cli import main


def test_serve_hands_its_options_to_the_reference_backend(capsys):
    """Which explains them."""
    with pytest.raises(SystemExit) as end:
        main(["serve", "--help"])
    assert end.value.code == 0
    assert "--preset" in capsys.readouterr().out


def test_without_a_command_it_says_which_there_are(capsys):
    """And ends as wrong usage does."""
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_without_the_extra_the_error_names_it(monkeypatch, capsys):
    """The plugin itself needs no server."""
    monkeypatch.setitem(sys.modules, "reference_impl.__main__", None)
    with pytest.raises(SystemExit):
        main(["serve"])
    assert "pip install 'pytest-isolation[reference]'" in capsys.readouterr().err
