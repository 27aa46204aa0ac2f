"""The process of the earlier revision: a pytest session that runs what it is told to, when it is told to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_isolation.revision.channel import VARIABLE, Channel, Silent

if TYPE_CHECKING:
    from pytest_isolation.latency.interleaved import Batch, Measured

_ENDED = "the session that this one ran beside has ended"


def join(config: pytest.Config) -> Beside:
    """Become the process of an earlier revision."""
    beside = Beside(Channel(int(os.environ.pop(VARIABLE))))  # what a test starts is no part of this
    config.pluginmanager.register(beside, "pytest_isolation.beside")
    return beside


class Beside:
    """The hooks of the process, and the server of its tests.

    Args:
        channel: to the session beside which this one runs; its first message says what may be asked for.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        hello = self._receive()
        self._wanted: list[str] = hello["wanted"]
        self._top = Path(hello["top"])
        self._target = ""
        self._now = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep what may be asked for, in the order in which it will be."""
        there = {item.nodeid: item for item in items}
        items[:] = [there[nodeid] for nodeid in self._wanted if nodeid in there]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Say what this revision has."""
        if not session.testsfailed or session.config.option.continue_on_collection_errors:
            self._channel.send(there=[item.nodeid for item in session.items])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Wait until a test, or one after it, is asked for; no fixture is set up before."""
        order = self._wanted.index
        while not self._target or order(item.nodeid) > order(self._target):
            self._target = self._receive().get("begin", self._target)
        self._now = item.nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say that the test that was asked for cannot be compared."""
        if report.failed or (report.skipped and report.when == "setup"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else _last_line(report)
            self._channel.send(test=report.nodeid, failed=reason)

    def asked(self) -> Batch:
        """Wait for the next batch; skip the rest of the test when there is none."""
        from pytest_isolation.latency.interleaved import Batch

        message = self._receive() if self._now == self._target else {}
        if "batch" not in message:
            raise pytest.skip.Exception("nothing more was asked for")
        return Batch(*message["batch"])

    def answer(self, measured: Measured) -> None:
        """Send what was measured, and which modules are not of this revision."""
        self._channel.send(test=self._now, measured=measured, foreign=sorted(self._foreign()))

    def _foreign(self) -> Iterator[str]:
        prefix = Path(sys.prefix).resolve()
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if not isinstance(file, str) or not file.startswith(str(self._top)):
                continue
            path = Path(file).resolve()
            if path.is_relative_to(self._top) and not path.is_relative_to(prefix):
                yield name

    def _receive(self) -> dict[str, Any]:
        try:
            return self._channel.receive()
        except Silent:
            pytest.exit(_ENDED, 0)


def _last_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr).strip().split("\n")[0]
