"""``python -m reference_impl`` serves the application on 127.0.0.1:8000."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace

import uvicorn

from reference_impl.app import Application
from reference_impl.backend import ReferenceBackend
from reference_impl.settings import PRESETS, from_environment, preset
from reference_impl.tokens import Tokens


class Server(uvicorn.Server):
    """Ends gently: sockets send what they have before they are closed, requests that are under way are answered."""

    def __init__(self, config: uvicorn.Config, application: Application) -> None:
        super().__init__(config)
        self._application = application

    async def shutdown(self, *args: object, **options: object) -> None:
        """Drain, and then end as uvicorn does."""
        self._application.drain()
        await super().shutdown(*args, **options)  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> None:
    """Serve, or print a token."""
    parser = argparse.ArgumentParser("python -m reference_impl", description="The reference backend.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 picks one")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="instead of that of the environment")
    parser.add_argument("--token", metavar="USER", help="print a token for this user (REFERENCE_TOKEN_SECRET) and end")
    chosen = parser.parse_args(arguments)
    try:
        settings = from_environment()
    except ValueError as error:
        parser.error(str(error))
    if chosen.preset is not None:
        kept = {name: getattr(settings, name) for name in ("database_url", "broker_url", "token_secret")}
        settings = replace(preset(chosen.preset), **kept)
    if chosen.token is not None:
        if settings.token_secret is None:
            parser.error("--token needs REFERENCE_TOKEN_SECRET, the same as the server's")
        print(Tokens(settings.token_secret).issue(chosen.token))  # noqa: T201 # what was asked for
        return
    application = Application(ReferenceBackend(settings))
    config = uvicorn.Config(
        application.starlette(),
        host=chosen.host,
        port=chosen.port,
        ws="websockets-sansio",
        ws_per_message_deflate=False,  # half the cost of an event, and a way to guess secrets from lengths
        timeout_graceful_shutdown=30,
        log_level="info",
    )
    server = Server(config, application)
    with contextlib.suppress(KeyboardInterrupt):  # raised again once everything has ended
        server.run()
    if not server.started:
        sys.exit(3)


if __name__ == "__main__":
    main()
