"""The process that serves an application under load: ``python -m pytest_isolation.load.child MOD:APP``.

It says its port on standard output once it is ready, and ends when its standard input does.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

import uvicorn

from pytest_isolation.targets.loopback import listening_socket


class Server(uvicorn.Server):
    """Says when it is ready."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        if self.started and sockets:
            sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
            sys.stdout.flush()

    def end_with_input(self) -> None:
        """Wait until whoever started this process is done with it, or is no more."""
        # Not sys.stdin: Python cannot end while a thread holds its lock, as when there is nothing to serve.
        while os.read(0, 1024):
            pass
        self.should_exit = True


def main(app: str) -> int:
    """Serve until standard input ends; the exit code."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    server = Server(config)
    with listening_socket() as listening:
        threading.Thread(target=server.end_with_input, daemon=True).start()
        server.run(sockets=[listening])
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
