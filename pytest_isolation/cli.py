"""The command ``isolation``, for what is no test run: load tests, profiles, reports, and the reference backend."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what was asked for.

    Args:
        arguments: of the command line; None takes those of the process.
    """
    parser = argparse.ArgumentParser("isolation", description="What belongs to pytest-isolation and is no test run.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "load", help="put a backend under the load of many users (options: isolation load --help)", add_help=False
    )
    commands.add_parser(
        "profile", help="time each stage of a backend (options: isolation profile --help)", add_help=False
    )
    commands.add_parser(
        "explain", help="show what a JSON report says (options: isolation explain --help)", add_help=False
    )
    commands.add_parser(
        "serve", help="start the reference backend on 127.0.0.1:8000 (options: isolation serve --help)", add_help=False
    )
    chosen, rest = parser.parse_known_args(arguments)
    if chosen.command == "load":
        from pytest_isolation import load_command

        sys.exit(load_command.main(rest))
    if chosen.command == "profile":
        from pytest_isolation import profile_command

        sys.exit(profile_command.main(rest))
    if chosen.command == "explain":
        from pytest_isolation import explain_command

        sys.exit(explain_command.main(rest))
    try:
        # By its name: the two packages know each other by their shapes alone.
        serve = importlib.import_module("reference_impl.__main__").main
    except ImportError as error:
        parser.error(f"the reference backend needs an extra: pip install 'pytest-isolation[reference]' ({error})")
    serve(rest)
