"""Sockets on this machine only."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from pytest_isolation.errors import MisuseError

HOST = "127.0.0.1"


def listening_socket() -> socket.socket:
    """A socket that listens on a free port of 127.0.0.1."""
    # Named as TCP: asyncio leaves Nagle's algorithm on where a socket does not say so, and every answer that is sent in
    # two parts then waits 40 ms for the client's delayed acknowledgement.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.bind((HOST, 0))
        listening.listen(2048)
    except OSError:
        listening.close()
        raise
    return listening


def url_of(listening: socket.socket) -> str:
    """Where a listening socket is reached."""
    return f"http://{HOST}:{listening.getsockname()[1]}"


def free_port() -> int:
    """A port that nobody listens on; somebody else may take it before it is used."""
    with listening_socket() as probe:
        port: int = probe.getsockname()[1]
        return port


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def refuse_remote(url: str, allow_remote: bool) -> None:
    """Refuse a URL of another machine.

    Raises:
        MisuseError: it says how it is permitted.
    """
    if not allow_remote and not is_local(url):
        raise MisuseError(
            f"a user was to reach {urlsplit(url).hostname}, which is not this machine, and crowds and planted secrets "
            "would be sent there. If that server is yours to test: --isolation-allow-remote"
        )
