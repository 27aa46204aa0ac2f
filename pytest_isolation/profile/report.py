"""What a profile proved, as text for people; for machines it is the report that pytest writes too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pytest_isolation.model import Result
from pytest_isolation.profile.bottlenecks import Bottleneck, Bottlenecks
from pytest_isolation.reports.budgets import budget_table, verdict_text
from pytest_isolation.reports.comparisons import comparison_verdict
from pytest_isolation.reports.figures import duration
from pytest_isolation.reports.table import aligned
from pytest_isolation.reports.terminal import remarks
from pytest_isolation.verdicts import Comparison, Outcome

_BESIDE = ("beside another backend", "pairs", "that one", "this one", "this / that (99 % interval)", "verdict")


@dataclass(frozen=True, slots=True)
class Profile:
    """All that was measured.

    Attributes:
        target: what was profiled, and how.
        results: one for each area.
        comparisons: with another backend.
        bottlenecks: where the time goes; None if that was not looked for.
        complaints: what could not be measured.
        notes: what a reader should know besides.
        interrupted: it was stopped; what was measured until then is here.
    """

    target: str
    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...] = ()
    bottlenecks: Bottlenecks | None = None
    complaints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def missed(self) -> list[str]:
        """The targets that are proven missed."""
        return [
            f"{result.nodeid} [{verdict.budget.span}]" if verdict.budget.span else result.nodeid
            for result in self.results
            for verdict in result.verdicts
            if verdict.outcome is Outcome.FAIL
        ]

    @property
    def proves_nothing(self) -> bool:
        """There is no verdict at all."""
        return not any(result.verdicts for result in self.results)

    @property
    def failed(self) -> bool:
        """A target is missed, or something could not be measured."""
        return bool(self.missed or self.complaints) or self.proves_nothing

    def as_results(self) -> Sequence[Result]:
        """Everything as results, which the JSON report knows."""
        notes = (*self.notes, *(_bottlenecks(self.bottlenecks) if self.bottlenecks else ()), *self.complaints)
        return [*self.results, Result("isolation profile", notes=tuple(notes), comparisons=self.comparisons)]


def text(profile: Profile) -> str:
    """Everything, for a person."""
    parts = [f"isolation profile: {profile.target}"]
    parts.append("\n".join(line for _, line in budget_table(profile.results, "stage")))
    misses = [v for result in profile.results for v in result.verdicts if v.outcome is Outcome.FAIL]
    parts += [verdict_text(verdict) for verdict in misses]
    parts.append("\n".join([*remarks(_without_comparisons(profile.results)), *profile.notes]))
    if profile.comparisons:
        parts.append("\n".join(aligned([_BESIDE, *map(_beside, profile.comparisons)])))
    if profile.bottlenecks is not None:
        parts.append("\n".join(_bottlenecks(profile.bottlenecks)))
    parts.append(_ending(profile))
    return "\n\n".join(filter(None, parts))


def _without_comparisons(results: Iterable[Result]) -> list[Result]:
    return [replace(result, comparisons=()) for result in results]


def _beside(comparison: Comparison) -> tuple[str, ...]:
    verdict, interval = comparison_verdict(comparison)
    return (
        comparison.name,
        str(comparison.pairs),
        duration(comparison.old_s),
        duration(comparison.new_s),
        f"{comparison.ratio:.3g} ({interval})",
        verdict.lower(),
    )


def _bottlenecks(found: Bottlenecks) -> Iterator[str]:
    yield f"where the time goes (the event loop had nothing to do for {found.idle * 100:.0f} % of it)"
    yield from (f"  {_bottleneck(one, one.whole)} with all that it calls" for one in found.application)
    yield from (f"  {_bottleneck(one, one.own)} by itself" for one in found.own)


def _bottleneck(one: Bottleneck, share: float) -> str:
    where = f" ({one.where})" if one.where else ""
    return f"{share * 100:4.1f} %  {one.name}{where}"


def _ending(profile: Profile) -> str:
    verdicts = [verdict for result in profile.results for verdict in result.verdicts]
    undecided = sum(verdict.outcome is Outcome.UNDECIDED for verdict in verdicts)
    doubt = f", {undecided} of {len(verdicts)} targets undecided" if undecided else ""
    lines = ["INTERRUPTED: what was measured until then is above"] if profile.interrupted else []
    lines.append(f"{'FAIL' if profile.failed else 'PASS'}{doubt}")
    lines += [f"  {name}: p95 over target" for name in profile.missed]
    lines += [f"  {complaint}" for complaint in profile.complaints]
    lines += ["  nothing was measured"] if profile.proves_nothing else []
    return "\n".join(lines)
