"""Targets for what operations may cost, alerts when one takes far too long, and a summary of how they do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, time
from traceback import format_exception_only
from types import MappingProxyType

from reference_impl.metrics import Metrics
from reference_impl.series import Series

# On p95, from the specification.
TARGETS_S: Mapping[str, float] = MappingProxyType(
    {
        "factory.context_creation": 0.010,
        "factory.agent_creation": 0.010,
        "factory.context_cleanup": 0.005,
        "socket.open": 0.001,
        "authenticate": 0.002,
        "event.dispatch": 0.005,
        "database.session": 0.002,
        "database.query": 0.001,
        "api.request": 0.020,
    }
)
# Fewer operations than this, and the quantile is but the maximum under another name.
_LEAST = {0.5: 2, 0.95: 20, 0.99: 100}


@dataclass(frozen=True, slots=True)
class Alert:
    """An operation that took far too long.

    Attributes:
        name: of the operation.
        tags: what it was called with.
        seconds: how long it took.
        target_s: what it may take.
        at_s: when, seconds since the epoch.
        suppressed: how many of the same name came since the last call of the callback, and were not reported by it.
    """

    name: str
    tags: Mapping[str, str]
    seconds: float
    target_s: float
    at_s: float
    suppressed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """How one operation does.

    Attributes:
        name: of the operation; all its tags together are as good as the worst of them.
        count: how often it was measured lately.
        p50_s: its median; like the others None where there are too few for it.
        p95_s: what it is judged by.
        p99_s: the tail.
        target_s: what p95 may be; None if there is no target.
        kept: p95 is within the target; None where that cannot be said.
    """

    name: str
    count: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    target_s: float | None
    kept: bool | None


@dataclass(frozen=True, slots=True)
class Summary:
    """How all operations do.

    Attributes:
        rows: one for each operation.
        health: of the operations that can be judged, the share that keeps its target, in percent; None if there is
            none, for what was never measured is not healthy.
    """

    rows: tuple[Row, ...]
    health: float | None


class Alerts:
    """Watches every operation that is measured, not only those that are kept in detail.

    Args:
        metrics: what is measured.
        targets_s: what operations may take, in seconds, by name.
        factor: an operation alerts when it takes longer than so many times its target.
        keep: the latest alerts that are kept.
        callback: is told, at most once in ``every_s`` for each operation; what it raises is told by ``failure`` and
            harms no request.
        every_s: seconds between two calls for the same operation.

    Attributes:
        failure: what the callback raised last, as a text, for the exception would keep the request alive in whose
            middle it came; empty if it never raised.
        failures: how often it raised.
    """

    def __init__(
        self,
        metrics: Metrics,
        targets_s: Mapping[str, float] = TARGETS_S,
        *,
        factor: float = 1.5,
        keep: int = 100,
        callback: Callable[[Alert], None] | None = None,
        every_s: float = 1.0,
    ) -> None:
        if factor < 1:
            raise ValueError(f"an alert below the target would never end: factor is at least 1, not {factor!r}")
        self._metrics = metrics
        self._targets_s = dict(targets_s)
        self._factor = factor
        self._alerts: deque[Alert] = deque(maxlen=keep)
        self._callback = callback
        self._every_s = every_s
        self._told: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}
        self.failure = ""
        self.failures = 0
        metrics.watch(self._choose)

    @property
    def latest(self) -> Sequence[Alert]:
        """The latest alerts, the oldest first."""
        return tuple(self._alerts.copy())

    def summary(self) -> Summary:
        """How every operation does that has a target or was measured, lately; judged on p95 and never on a mean."""
        self._metrics.rotate()
        by_name: dict[str, list[Series]] = {name: [] for name in self._targets_s}
        for series in self._metrics:
            by_name.setdefault(series.name, []).append(series.recent())
        rows = tuple(self._row(name, several) for name, several in by_name.items())
        judged = [row.kept for row in rows if row.kept is not None]
        return Summary(rows, 100 * sum(judged) / len(judged) if judged else None)

    def _row(self, name: str, several: Sequence[Series]) -> Row:
        count, target_s = sum(series.count for series in several), self._targets_s.get(name)
        worst = {q: _worst(several, q) for q in _LEAST}
        p95_s = worst[0.95]
        kept = None if p95_s is None or target_s is None else p95_s <= target_s
        return Row(name, count, worst[0.5], p95_s, worst[0.99], target_s, kept)

    def _choose(self, series: Series) -> tuple[float, Callable[[Series, float], None]] | None:
        target_s = self._targets_s.get(series.name)
        return None if target_s is None else (target_s * self._factor, self._over)

    def _over(self, series: Series, seconds: float) -> None:
        name, now = series.name, monotonic()
        suppressed = self._suppressed.get(name, 0)
        alert = Alert(name, dict(series.tags), seconds, self._targets_s[name], time(), suppressed)
        self._alerts.append(alert)
        self._metrics.count("alerts", tags={"operation": name})
        if self._callback is None:
            return
        if now - self._told.get(name, -self._every_s) < self._every_s:
            self._suppressed[name] = suppressed + 1
            return
        self._told[name], self._suppressed[name] = now, 0
        try:
            self._callback(alert)
        except Exception as error:  # somebody else's code, in the middle of a request that has done nothing wrong
            self.failure = "".join(format_exception_only(error)).strip()
            self.failures += 1


def _worst(several: Sequence[Series], q: float) -> float | None:
    values = [series.quantile(q) for series in several if series.count >= _LEAST[q]]
    return max((value for value in values if value is not None), default=None)
