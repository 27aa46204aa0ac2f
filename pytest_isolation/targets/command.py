"""Serves what a command starts: any server, in any environment."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, sleep

from pytest_isolation.errors import MisuseError
from pytest_isolation.targets.loopback import HOST, free_port

_STARTING_S, _CLOSING_S = 60.0, 5.0
_POLL_S = 0.02
_SHOWN = 4000


class CommandServer:
    """A command that serves on a port of this machine, in a process group of its own.

    Args:
        command: its words; ``{port}`` is filled in.

    Attributes:
        url: where it is.
        hears_marks: False, because it is another process.

    Raises:
        MisuseError: it names no port, cannot be started, ends at once, or does not answer.
    """

    hears_marks = False

    def __init__(self, command: Sequence[object]) -> None:
        words = [os.fspath(word) for word in command if isinstance(word, str | os.PathLike)]
        if not words or len(words) < len(command):
            raise MisuseError(f"isolation_app is {command!r:.100}: a command is a list of texts")
        if not any("{port}" in word for word in words):
            raise MisuseError(
                f"isolation_app is the command {words}, which does not say where its port belongs: "
                'write {port}, as in ["uvicorn", "shop:app", "--port", "{port}"]'
            )
        self._port = free_port()
        self._words = [word.replace("{port}", str(self._port)) for word in words]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is; a pipe would fill up
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the test's own command
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that whatever it starts ends with it, and Ctrl-C is for us
            )
        except OSError as error:
            self._output.close()
            raise MisuseError(f"isolation_app: {shlex.join(self._words)} cannot be started: {error}") from error
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        self.url = f"http://{HOST}:{self._port}"

    def _wait(self) -> None:
        deadline = monotonic() + _STARTING_S
        while monotonic() < deadline:
            if self._process.poll() is not None:
                code = self._process.returncode
                raise MisuseError(f"{self._name} ended with exit code {code} before it answered{self._last_words()}")
            with suppress(OSError), socket.create_connection((HOST, self._port), timeout=1.0):
                return
            sleep(_POLL_S)
        where = f"{HOST}:{self._port}"
        raise MisuseError(f"{self._name} does not answer on {where} after {_STARTING_S:g} s{self._last_words()}")

    def close(self) -> None:
        """End the process and all that it has started, gently at first."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_CLOSING_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            self._process.wait()
            self._output.close()

    def _signal(self, number: int) -> None:
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
                os.killpg(self._process.pid, number)
        elif self._process.poll() is None:
            self._process.terminate()

    @property
    def _name(self) -> str:
        return f"isolation_app: {shlex.join(self._words)}"

    def _last_words(self) -> str:
        self._output.seek(0)
        text = self._output.read().decode("utf-8", "replace").strip()
        return f":\n{text[-_SHOWN:]}" if text else ""
