"""``python -m reference_impl`` serves the application on 127.0.0.1:8000."""

from __future__ import annotations

import argparse
import os
import sys

from reference_impl.app import Served
from reference_impl.backend import ReferenceBackend
from reference_impl.naive import NaiveBackend
from reference_impl.serving import serve
from reference_impl.settings import PREFIX, PRESETS, Settings, from_environment
from reference_impl.tokens import Tokens


def main(arguments: list[str] | None = None) -> None:
    """Serve, or print a token."""
    parser = argparse.ArgumentParser("python -m reference_impl", description="The reference backend.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 picks one")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="instead of that of the environment")
    parser.add_argument("--naive", action="store_true", help="the backend before any optimisation")
    parser.add_argument("--token", metavar="USER", help="print a token for this user (REFERENCE_TOKEN_SECRET) and end")
    chosen = parser.parse_args(arguments)
    try:
        settings = _settings(chosen.preset)
        if chosen.token is not None:
            if settings.token_secret is None:
                parser.error("--token needs REFERENCE_TOKEN_SECRET, the same as the server's")
            print(Tokens(settings.token_secret).issue(chosen.token))  # noqa: T201 # what was asked for
            return
        backend: Served = (NaiveBackend if chosen.naive else ReferenceBackend)(settings)
    except ValueError as error:
        parser.error(str(error))
    if not serve(backend, host=chosen.host, port=chosen.port):
        sys.exit(3)


def _settings(preset: str | None) -> Settings:
    """Those of the environment; a preset that was asked for takes the place of its preset, and of nothing else."""
    return from_environment({**os.environ, f"{PREFIX}PRESET": preset} if preset is not None else os.environ)


if __name__ == "__main__":
    main()
