"""Metrics as text for Prometheus, made when it is asked for."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from reference_impl.metrics import Metrics, Series, Tags

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Each with the fewest operations of which it is more than the maximum under another name.
QUANTILES = {0.5: 2, 0.9: 10, 0.95: 20, 0.99: 100}
BUCKETS_S = (
    *(0.000_01, 0.000_1, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 50.0),
)


def exposition(metrics: Metrics, gauges: Mapping[str, float] | None = None, *, prefix: str = "isolation") -> bytes:
    """Everything that was measured, in Prometheus' text format.

    An operation ``x.y`` is the summary ``isolation_x_y_seconds`` with its quantiles, and the histogram
    ``isolation_x_y_duration_seconds``, from which several replicas can be added up; a family cannot be both.

    Args:
        metrics: of one backend.
        gauges: what is known besides, by name: the figures of pools.
        prefix: what all names begin with.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics, gauges or {}, prefix))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, metrics: Metrics, gauges: Mapping[str, float], prefix: str) -> None:
        self._metrics = metrics
        self._gauges = gauges
        self._names = _Names(prefix)

    def collect(self) -> Iterator[Metric]:
        by_name: dict[str, list[Series]] = {}
        for series in self._metrics:
            by_name.setdefault(series.name, []).append(series)
        for name, several in by_name.items():
            yield from self._durations(name, several)
        yield from self._values(self._metrics.counters, CounterMetricFamily, "How often: ")
        known: dict[tuple[str, Tags], float] = {(name, ()): value for name, value in self._gauges.items()}
        yield from self._values({**known, **self._metrics.gauges}, GaugeMetricFamily, "How much there is now: ")

    def _durations(self, name: str, several: Iterable[Series]) -> Iterator[Metric]:
        valid = self._names.valid(name)
        summary = SummaryMetricFamily(f"{valid}_seconds", f"How long {name} took.")
        histogram = HistogramMetricFamily(f"{valid}_duration_seconds", f"How long {name} took, in buckets.")
        errors = CounterMetricFamily(f"{valid}_errors", f"How often {name} ended with an exception.")
        cancelled = CounterMetricFamily(f"{valid}_cancelled", f"How often {name} was cancelled.")
        for series in several:
            labels, count = self._names.labels(series.tags), series.count
            for q, least in QUANTILES.items():
                if count >= least and (value := series.quantile(q)) is not None:
                    summary.add_sample(f"{valid}_seconds", {**labels, "quantile": str(q)}, value)
            summary.add_sample(f"{valid}_seconds_count", labels, count)
            summary.add_sample(f"{valid}_seconds_sum", labels, series.sum_s)
            for edge_s, upto in zip(BUCKETS_S, series.counts_up_to(BUCKETS_S), strict=True):
                histogram.add_sample(f"{valid}_duration_seconds_bucket", {**labels, "le": f"{edge_s:g}"}, upto)
            histogram.add_sample(f"{valid}_duration_seconds_bucket", {**labels, "le": "+Inf"}, count)
            histogram.add_sample(f"{valid}_duration_seconds_count", labels, count)
            histogram.add_sample(f"{valid}_duration_seconds_sum", labels, series.sum_s)
            errors.add_sample(f"{valid}_errors_total", labels, series.errors)
            cancelled.add_sample(f"{valid}_cancelled_total", labels, series.cancelled)
        yield from (summary, histogram, errors, cancelled)

    def _values(
        self,
        values: Mapping[tuple[str, Tags], float],
        family: type[CounterMetricFamily | GaugeMetricFamily],
        what: str,
    ) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        ending = "_total" if family is CounterMetricFamily else ""
        for (name, tags), value in values.items():
            valid = self._names.valid(name)
            if name not in families:
                families[name] = family(valid, f"{what}{name}.")
            families[name].add_sample(f"{valid}{ending}", self._names.labels(tags), value)
        yield from families.values()


class _Names:
    """Names as Prometheus wants them; two that differ stay two."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._taken: dict[str, str] = {}

    def valid(self, name: str) -> str:
        """A name of ASCII letters, digits and underscores."""
        plain = f"{self._prefix}_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"
        if self._taken.setdefault(plain, name) != name:
            plain = f"{plain}_{zlib.crc32(name.encode('utf-8', 'backslashreplace')):08x}"
        return plain

    @staticmethod
    def labels(tags: Tags) -> dict[str, str]:
        """Tags as labels; one that Prometheus keeps for itself gets an underscore in front."""
        labels: dict[str, str] = {}
        for key, value in tags:
            name = re.sub(r"[^a-zA-Z0-9_]", "_", key)
            if name in ("le", "quantile") or name.startswith("__") or not name or name[0].isdigit():
                name = f"tag_{name}"
            while name in labels:
                name += "_"
            labels[name] = value
        return labels
