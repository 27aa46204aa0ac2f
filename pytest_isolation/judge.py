"""Has the oracles read what a phase left behind, and keeps what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from pytest_isolation.errors import PluginFault
from pytest_isolation.model import Evidence, Finding, Kind, Observation
from pytest_isolation.oracles.ambient import ambient_changes
from pytest_isolation.oracles.caching import cacheable_by_others
from pytest_isolation.oracles.canaries import foreign_canaries
from pytest_isolation.oracles.database import left_in_sessions
from pytest_isolation.oracles.endings import bad_endings
from pytest_isolation.oracles.interference import departures
from pytest_isolation.oracles.logs import overheard_canaries
from pytest_isolation.oracles.pools import mislent
from pytest_isolation.oracles.retention import retained
from pytest_isolation.oracles.tasks import left_behind
from pytest_isolation.users.likeness import likeness
from pytest_isolation.users.story import Story

Oracle = Callable[[Evidence, Story], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Extensions:
    """What other plugins and conftest files add (``hookspecs``).

    Attributes:
        oracles: further oracles.
        normalise: what an observation reads for the comparison with the solo runs.
        allow: the reason why a finding is no fault, None if it is one.
        keepers: what may keep something of a user: patterns of ways to it, each with a reason.
    """

    oracles: tuple[Oracle, ...] = ()
    normalise: Callable[[Observation], Observation] | None = None
    allow: Callable[[Finding], str | None] = field(default=lambda _finding: None)
    keepers: tuple[tuple[str, str], ...] = ()


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
        self._story: Story | None = None
        self._sound: set[bytes | None] = set()

    @property
    def is_plain(self) -> bool:
        """There are no further oracles, so that what is judged depends on nothing but the evidence."""
        return not self._extensions.oracles

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
        self.keep(self.look(evidence, story), evidence)

    def look_for_canaries(self, evidence: Evidence, story: Story) -> None:
        """Judge a phase only by what proves a leak, whoever was there."""
        self.keep(self.look(evidence, story, whole=False), evidence)

    def look(self, evidence: Evidence, story: Story, whole: bool = True) -> list[Finding]:
        """What the oracles find in a phase, without what is allowed; nothing is reported yet.

        Args:
            evidence: what it left behind.
            story: what a user sees who is alone.
            whole: judge it in every respect, and not only by what proves a leak.
        """
        findings = self._seen(evidence, story, whole)
        for certain in (overheard_canaries, left_in_sessions, mislent, retained):
            findings += _ask(certain, evidence, story)
        if whole:
            findings += _ask(bad_endings, evidence, story)
            for known in (cacheable_by_others, ambient_changes, left_behind):
                findings += _ask(known, evidence, story)
            for oracle in self._extensions.oracles:
                findings += _ask(oracle, evidence, story)
        return [finding for finding in findings if not self.allows(finding)]

    def _seen(self, evidence: Evidence, story: Story, whole: bool) -> list[Finding]:
        """What the oracles find in what users saw; where many saw the same, one of them is looked at for all."""
        if story is not self._story:
            self._story, self._sound = story, set()
        alike = {run.number: None if self._extensions.normalise else likeness(evidence, run) for run in evidence.runs}
        firsts = {look: number for number, look in reversed(alike.items()) if look not in self._sound}
        one = [run for run in evidence.runs if alike[run.number] is None or firsts.get(alike[run.number]) == run.number]
        found = self._look_at(replace(evidence, runs=tuple(one)), story, whole)
        guilty = {finding.user for finding in found}
        sound = self._sound | {alike[run.number] for run in one if run.user not in guilty} - {None}
        if whole:
            self._sound = sound
        others = [run for run in evidence.runs if run not in one and alike[run.number] not in sound]
        if others:
            found += self._look_at(replace(evidence, runs=tuple(others)), story, whole)
            order = {run.user: index for index, run in enumerate(evidence.runs)}
            found.sort(key=lambda finding: (finding.kind is not Kind.LEAK, order[finding.user]))
        return found

    def _look_at(self, evidence: Evidence, story: Story, whole: bool) -> list[Finding]:
        leaks = _ask(foreign_canaries, evidence, story)
        if not whole:
            return leaks
        # Whoever received a secret saw something else than alone: that says nothing new.
        leaked = {finding.user for finding in leaks}
        departed = _ask(departures, self._normalised(evidence), story)
        return leaks + [finding for finding in departed if finding.user not in leaked]

    def keep(self, findings: Iterable[Finding], evidence: Evidence | None = None) -> None:
        """Report findings.

        Args:
            findings: what was found.
            evidence: in what; the exception of the first user who failed is shown as it is.
        """
        self.findings.extend(findings)
        self.findings.sort(key=lambda finding: _GRAVITY.index(finding.kind))
        if evidence and self.first_error is None and any(finding.kind is Kind.FAILED for finding in self.findings):
            self.first_error = next((run.error for run in evidence.runs if run.error is not None), None)

    def retained(self, evidence: Evidence) -> list[Finding]:
        """What is kept alive of what users tracked, without what is allowed."""
        return [one for one in _ask(retained, evidence, Story(())) if not self.allows(one)]

    def consider(self, findings: Iterable[Finding]) -> None:
        """Report what was found otherwise, without what is allowed."""
        self.keep(finding for finding in findings if not self.allows(finding))

    def may_keep(self, path: str) -> str | None:
        """Why this may keep something of a user; None if nothing says so."""
        keepers = ((pattern.replace("[", "[[]"), reason) for pattern, reason in self._extensions.keepers)
        return next((reason for pattern, reason in keepers if path and fnmatchcase(path, pattern)), None)

    def allows(self, finding: Finding) -> bool:
        """It is no fault, for a reason that a hook or a setting gives."""
        reason = self._extensions.allow(finding) or self.may_keep(finding.kept_by)
        if reason is not None:
            self._allowed.setdefault(reason, []).append(finding)
        return reason is not None

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
