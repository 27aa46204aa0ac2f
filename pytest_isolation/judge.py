"""Has the oracles read what a phase left behind, and keeps what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pytest_isolation.errors import PluginFault
from pytest_isolation.model import Evidence, Finding, Kind, Observation
from pytest_isolation.oracles.canaries import foreign_canaries
from pytest_isolation.oracles.endings import bad_endings
from pytest_isolation.oracles.interference import departures
from pytest_isolation.users.transcript import Story

Oracle = Callable[[Evidence, Story], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Extensions:
    """What other plugins and conftest files add (``hookspecs``).

    Attributes:
        oracles: further oracles.
        normalise: what an observation reads for the comparison with the solo runs.
        allow: the reason why a finding is no fault, None if it is one.
    """

    oracles: tuple[Oracle, ...] = ()
    normalise: Callable[[Observation], Observation] | None = None
    allow: Callable[[Finding], str | None] = field(default=lambda _finding: None)


class Judge:
    """Judges the phases of one test.

    Args:
        extensions: further oracles and exceptions.

    Attributes:
        findings: what was found, the gravest first.
        first_error: what the first user who failed was stopped by.
    """

    def __init__(self, extensions: Extensions) -> None:
        self.findings: list[Finding] = []
        self.first_error: BaseException | None = None
        self._extensions = extensions
        self._allowed: dict[str, list[Finding]] = {}

    @property
    def notes(self) -> list[str]:
        """What was allowed, and why: a line for each reason."""
        return [
            f"allowed: {found[0].summary}" + (f", and {len(found) - 1} more" if len(found) > 1 else "") + f" ({reason})"
            for reason, found in self._allowed.items()
        ]

    def learn(self, solos: Iterable[Evidence]) -> Story:
        """What the scenario shows a user who is alone."""
        return Story([self._normalised(evidence) for evidence in solos])

    def hear(self, evidence: Evidence, story: Story) -> None:
        """Judge a phase in every respect.

        Args:
            evidence: what it left behind.
            story: what a user sees who is alone.
        """
        findings = [*_ask(foreign_canaries, evidence, story), *_ask(bad_endings, evidence, story)]
        leaked = {finding.user for finding in findings if finding.kind is Kind.LEAK}
        # Whoever received a secret saw something else than alone: that says nothing new.
        departed = _ask(departures, self._normalised(evidence), story)
        findings += [finding for finding in departed if finding.user not in leaked]
        for oracle in self._extensions.oracles:
            findings += _ask(oracle, evidence, story)
        self._keep(findings, evidence)

    def look_for_canaries(self, evidence: Evidence, story: Story) -> None:
        """Judge a phase only by what proves a leak, whoever was there."""
        self._keep(_ask(foreign_canaries, evidence, story), evidence)

    def _keep(self, findings: Iterable[Finding], evidence: Evidence) -> None:
        for finding in findings:
            reason = self._extensions.allow(finding)
            if reason is None:
                self.findings.append(finding)
            else:
                self._allowed.setdefault(reason, []).append(finding)
        self.findings.sort(key=lambda finding: _GRAVITY.index(finding.kind))
        if self.first_error is None and any(finding.kind is Kind.FAILED for finding in self.findings):
            self.first_error = next((run.error for run in evidence.runs if run.error is not None), None)

    def _normalised(self, evidence: Evidence) -> Evidence:
        normalise = self._extensions.normalise
        if normalise is None:
            return evidence
        runs = (replace(run, observations=tuple(map(normalise, run.observations))) for run in evidence.runs)
        return replace(evidence, runs=tuple(runs))


_GRAVITY: Sequence[Kind] = tuple(Kind)


def _ask(oracle: Oracle, evidence: Evidence, story: Story) -> list[Finding]:
    """The findings of an oracle; one that breaks is not the test's fault, and not silent either."""
    try:
        return list(oracle(evidence, story))
    except Exception as error:
        name = getattr(oracle, "__qualname__", repr(oracle))
        said = f"{type(error).__name__}: {error}"
        raise PluginFault(f"the oracle {name} failed: {said}. This is not the test's fault") from error
