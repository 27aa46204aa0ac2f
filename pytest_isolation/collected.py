"""The pytest hooks of a whole session: results are collected, judged together, shown and written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_isolation.state import STATE

if TYPE_CHECKING:
    from pytest_isolation.model import Result


class Collected:
    """The results of all tests, where they are shown: in the process itself, or in the controller of its workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.results: dict[str, Result] = {}
        self._state = config.stash[STATE]
        self._errors: list[str] = []
        self._said: list[str] = []
        self._is_worker = hasattr(config, "workerinput")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        encoded = getattr(report, "isolation", None)
        if encoded is not None and not self._is_worker:
            from pytest_isolation.reports.json import decode

            self.results[report.nodeid] = decode(encoded)
        spans = getattr(report, "isolation_spans", None)
        if spans is not None and not self._is_worker and self._state.session is not None:
            self._state.session.add(spans)
            del report.isolation_spans  # reports are kept to the end, and these are large
        samples = getattr(report, "isolation_samples", None)
        if samples is not None and not self._is_worker and self._state.baseline is not None:
            self._state.baseline.add(report.nodeid, samples)
            del report.isolation_samples

    @pytest.hookimpl(tryfirst=True)  # before JUnit's file is written, and pytest's own summary
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not session.config.option.collectonly:
            self._judge_session(session)
            self._judge_against_baseline(session)
            self._require_comparison(session)
        elif exitstatus == pytest.ExitCode.INTERRUPTED:
            self._show_session()
        self._store_baseline(session)
        for path in () if self._is_worker else self._state.settings.report:
            from pytest_isolation.reports.json import write

            try:
                write(path, self.results.values(), self._state.seed)
            except OSError as error:
                self._errors.append(f"the report was not written: {error}")
                session.exitstatus = session.exitstatus or pytest.ExitCode.USAGE_ERROR

    def _judge_session(self, session: pytest.Session) -> None:
        """Judge the budgets of the ini file; each that is missed is a failed test, which every reporter knows."""
        if self._state.session is None or self._is_worker:
            return
        from pytest_isolation.reports.budgets import session_failures
        from pytest_isolation.session_budgets import NODEID

        result = self.results[NODEID] = self._state.session.result
        for name, said in session_failures(result, self._state.settings.fails_on_doubt):
            _fail(session, NODEID, name, said)

    def _show_session(self) -> None:
        """Show how far the budgets of the ini file had got when the session was interrupted; nothing fails by them."""
        if self._state.session is None or self._is_worker:
            return
        from pytest_isolation.session_budgets import NODEID

        result = self._state.session.result
        if any(verdict.samples for verdict in result.verdicts):
            self.results[NODEID] = replace(result, interrupted=True)

    def _judge_against_baseline(self, session: pytest.Session) -> None:
        """Compare with what was stored; in CI mode, what is slower is a failed test."""
        if self._state.baseline is None or self._is_worker:
            return
        from pytest_isolation.reports.comparisons import regression_text
        from pytest_isolation.session_baseline import NODEID

        regressions = self._state.baseline.regressions()
        if (result := self._state.baseline.result(regressions)) is not None:
            self.results[NODEID] = result
        for regression in regressions if self._state.settings.budget else ():
            if regression.slower:
                span = f" [{regression.span}]" if regression.span else ""
                _fail(session, NODEID, f"{regression.test}{span}", regression_text(regression))

    def _require_comparison(self, session: pytest.Session) -> None:
        """Do not let a session be green that was to compare two revisions, and compared nothing."""
        if self._state.revision is None or any(result.comparisons for result in self.results.values()):
            return
        self._errors.append(
            f"nothing was compared with {self._state.revision.name}: only bodies with @pytest.mark.latency that run by "
            "themselves are, and none of them could be"
        )
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def _store_baseline(self, session: pytest.Session) -> None:
        """Whatever ended the session, what was measured is kept."""
        if self._state.baseline is None or self._is_worker:
            return
        try:
            said = self._state.baseline.store()
        except OSError as error:
            self._errors.append(f"the baseline was not stored: {error}")
            session.exitstatus = session.exitstatus or pytest.ExitCode.USAGE_ERROR
        else:
            self._said += [said] if said else []

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not (self.results or self._errors or self._said):
            return
        from pytest_isolation.reports.terminal import show

        show(terminalreporter, list(self.results.values()), self._state.settings, self._state.seed, self._errors)
        for line in self._said:
            terminalreporter.line(line)


def _fail(session: pytest.Session, where: str, name: str, said: str) -> None:
    """Report a failure that is no test's, so that every reporter knows it."""
    report = pytest.TestReport(f"{where}::{name}", (where, None, name), {}, "failed", said, "call")
    session.testsfailed += 1
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    session.config.hook.pytest_runtest_logreport(report=report)


COLLECTED = pytest.StashKey[Collected]()
