"""Wrong usage is refused before anything is measured, with the right form."""

import sys

import pytest

from pytest_isolation.cli import main


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--users 0", "argument --users: it takes a whole number ≥ 1, not '0'"),
        ("--users 1.5", "it takes a whole number ≥ 1, not '1.5'"),
        ("--users many", "it takes a whole number ≥ 1, not 'many'"),
        ("--burst-users -1", "it takes a whole number ≥ 0, not '-1'"),
        ("--duration 0", "argument --duration: it takes a number > 0, not '0'"),
        ("--duration -5", "it takes a number > 0, not '-5'"),
        ("--duration nan", "it takes a number > 0, not 'nan'"),
        ("--burst-duration inf", "it takes a number > 0, not 'inf'"),
        ("--rate inf", "argument --rate: it takes a number > 0, not 'inf'"),
        ("--rate 0", "it takes a number > 0, not '0'"),
        ("--think-time 0", "it takes a number > 0, not '0'"),
        ("--rate 5 --think-time 100", "not allowed with argument"),
        ("--target-p95 0", "argument --target-p95: it takes a number > 0"),
        ("--max-error-rate 2", "it takes a share from 0 to 1, such as 0.001, not '2'"),
        ("--max-error-rate few", "it takes a share from 0 to 1, such as 0.001, not 'few'"),
        ("--seed -1", "it takes a whole number ≥ 0, not '-1'"),
        ("--mix chta=1", "argument --mix: there is no operation 'chta'; did you mean 'chat'?"),
        ("--mix chat", "'chat' has no weight: write it as chat=2"),
        ("--duration 5 --burst-duration 5", "the burst is a part of the duration: 5 s do not fit into 5 s"),
        ("--backend a:b --url http://x", "not allowed with argument"),
        ("--app a:b --url http://x", "not allowed with argument"),
        ("--backend shop", "--backend takes a module and a name in it, such as shop.backend:create, not 'shop'"),
        ("--app shop/app.py", "--app takes a module and a name in it, such as shop.app:app, not 'shop/app.py'"),
        ("--url localhost:8000", "--url takes the address of a server, such as http://127.0.0.1:8000"),
        ("--url http://127.0.0.1:1", "export REFERENCE_TOKEN_SECRET=…, the same as the server's"),
        ("--token load.shop:token", "--token goes with --app or --url"),
        ("--url http://x --token load.shop:nobody", "load.shop has no 'nobody'"),
        ("--backend load.shop:Shopp", "load.shop has no 'Shopp'; did you mean 'Shop'?"),
        ("--backend load.shop:token", "load.shop:token() raised TypeError"),
        ("--backend load.nowhere:Shop", "there is no module 'load.nowhere' to import"),
        ("--backend load.shop:Unstartable", "its start() raised OSError: no database"),
        ("--app load.nowhere:app", "ended before it was ready"),
        ("--save report.html", "--save takes the path of a file that ends in .json, not 'report.html'"),
        ("--save /dev/null/report.json", "--save /dev/null/report.json: "),
        ("--uesrs 5", "unrecognized arguments: --uesrs 5"),
    ],
)
def test_wrong_usage_ends_with_2_and_the_right_form(options, said, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("REFERENCE_TOKEN_SECRET", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["load", *options.split()])
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "usage: isolation load" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("missing", ["httpx", "websockets.asyncio.client", "uvicorn"])
def test_a_missing_library_is_named_with_its_extra(missing, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "pytest_isolation.load.web", raising=False)
    monkeypatch.delattr("pytest_isolation.load.web", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as end:
        main(["load", "--app", "load.shop:correct_app"])
    assert end.value.code == 2
    assert "pip install 'pytest-isolation[load]'" in capsys.readouterr().err


def test_help_names_every_option_and_exit_code(capsys):
    with pytest.raises(SystemExit) as end:
        main(["load", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--burst-duration", "--think-time", "--mix", "--save", "130"):
        assert word in shown
