"""Metrics as text for Prometheus, made when it is asked for."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from reference_impl.metrics import Key, Kind, Metrics
from reference_impl.series import Series, Tags

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Each with the fewest operations of which it is more than the maximum under another name.
QUANTILES = {0.5: 2, 0.9: 10, 0.95: 20, 0.99: 100}
BUCKETS_S = (
    *(0.000_01, 0.000_1, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 50.0),
)


# Of every kind, the endings of all names that it takes: of families, also as Prometheus' parsers shorten them, and of
# their samples.
_ENDINGS: Mapping[Kind, tuple[str, ...]] = {
    "operation": (
        *("_seconds", "_seconds_count", "_seconds_sum"),
        *(f"_duration_seconds{ending}" for ending in ("", "_bucket", "_count", "_sum")),
        *("_errors", "_errors_total", "_cancelled", "_cancelled_total"),
    ),
    "counter": ("", "_total"),
    "gauge": ("",),
}
_OVERFLOWED = "metrics.overflowed"


def exposition(metrics: Metrics, gauges: Mapping[str, float] | None = None, *, prefix: str = "isolation") -> bytes:
    """Everything that was measured, in Prometheus' text format.

    An operation ``x.y`` is the summary ``isolation_x_y_seconds`` with its quantiles, which are of the last minutes, and
    the histogram ``isolation_x_y_duration_seconds``, from which several replicas can be added up; a family cannot be
    both. Where two want the same name, the one that came first keeps it, and the other one's ends in a checksum.

    It may run in a thread of its own while others measure.

    Args:
        metrics: of one backend.
        gauges: what is known besides, by name, the same names each time: the figures of pools.
        prefix: what all names begin with.
    """
    metrics.rotate()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics, gauges or {}, prefix))
    return generate_latest(registry)


def gauges_of(**parts: Any) -> dict[str, float]:
    """The figures of parts of a backend as gauges, ``part.figure``.

    Args:
        parts: each a dataclass of numbers.
    """
    return {f"{part}.{name}": float(value) for part, one in parts.items() for name, value in asdict(one).items()}


class _Collector(Collector):
    def __init__(self, metrics: Metrics, gauges: Mapping[str, float], prefix: str) -> None:
        self._metrics = metrics
        self._given = gauges
        self._prefix = prefix

    def collect(self) -> Iterator[Metric]:
        operations: dict[str, list[Series]] = {}
        for series in self._metrics:
            operations.setdefault(series.name, []).append(series.copy())
        given: dict[Key, float] = {(name, ()): value for name, value in self._given.items()}
        gauges = _by_name({**given, **self._metrics.gauges})
        counters = _by_name(self._metrics.counters)
        names = self._metrics.names  # after the rest of it, so that it has all names
        if names:
            counters[_OVERFLOWED] = {(): self._metrics.overflowed}
        families = _Families(self._prefix)
        first: list[tuple[Kind, str]] = [("counter", _OVERFLOWED), *(("gauge", name) for name in self._given)]
        for kind, name in dict.fromkeys([*first, *names]):
            family = families.name(kind, name)
            if kind == "operation":
                yield from _durations(family, name, operations.get(name, ()))
            elif kind == "counter":
                counter = CounterMetricFamily(family, _text(f"How often: {name}."))
                yield from _values(counter, f"{family}_total", counters.get(name, {}))
            else:
                gauge = GaugeMetricFamily(family, _text(f"How much there is now: {name}."))
                yield from _values(gauge, family, gauges.get(name, {}))


def _by_name(values: Mapping[Key, float]) -> dict[str, dict[Tags, float]]:
    names: dict[str, dict[Tags, float]] = {}
    for (name, tags), value in values.items():
        names.setdefault(name, {})[tags] = value
    return names


def _durations(family: str, name: str, several: Collection[Series]) -> Iterator[Metric]:
    if not several:
        return
    name = _text(name)
    summary = SummaryMetricFamily(f"{family}_seconds", f"How long {name} took.")
    histogram = HistogramMetricFamily(f"{family}_duration_seconds", f"How long {name} took, in buckets.")
    errors = CounterMetricFamily(f"{family}_errors", f"How often {name} ended with an exception.")
    cancelled = CounterMetricFamily(f"{family}_cancelled", f"How often {name} was cancelled.")
    labelled = _Labels()
    for series in several:
        labels, count = labelled.of(series.tags), series.count
        lately = series.recent()
        many = lately.count
        for q, least in QUANTILES.items():
            if many >= least and (value := lately.quantile(q)) is not None:
                summary.add_sample(f"{family}_seconds", {**labels, "quantile": str(q)}, value)
        summary.add_sample(f"{family}_seconds_count", labels, count)
        summary.add_sample(f"{family}_seconds_sum", labels, series.sum_s)
        for edge_s, upto in zip(BUCKETS_S, series.counts_up_to(BUCKETS_S), strict=True):
            histogram.add_sample(f"{family}_duration_seconds_bucket", {**labels, "le": f"{edge_s:g}"}, upto)
        histogram.add_sample(f"{family}_duration_seconds_bucket", {**labels, "le": "+Inf"}, count)
        histogram.add_sample(f"{family}_duration_seconds_count", labels, count)
        histogram.add_sample(f"{family}_duration_seconds_sum", labels, series.sum_s)
        errors.add_sample(f"{family}_errors_total", labels, series.errors)
        cancelled.add_sample(f"{family}_cancelled_total", labels, series.cancelled)
    yield from (summary, histogram, errors, cancelled)


def _values(family: Metric, sample: str, values: Mapping[Tags, float]) -> Iterator[Metric]:
    labelled = _Labels()
    for tags, value in values.items():
        family.add_sample(sample, labelled.of(tags), value)
    if values:
        yield family


class _Families:
    """Names as Prometheus wants them; of no two families does one take a name of the other."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._taken: set[str] = set()

    def name(self, kind: Kind, name: str) -> str:
        """A name of ASCII letters, digits and underscores, to which the endings of the kind are put."""
        plain = f"{self._prefix}_{_plain(name)}"
        if kind == "counter":
            plain = re.sub(r"(_total)+$", "", plain)  # it comes as an ending, once
        for candidate in _candidates(plain, f"{kind} {name}"):
            taking = {candidate + ending for ending in _ENDINGS[kind]}
            if self._taken.isdisjoint(taking):
                break
        self._taken |= taking
        return candidate


class _Labels:
    """The labels of one family; tags that differ stay two."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}

    def of(self, tags: Tags) -> dict[str, str]:
        """Tags as labels; one that Prometheus keeps for itself gets ``tag_`` in front."""
        return {self._label(key): _text(value) for key, value in tags}

    def _label(self, key: str) -> str:
        label = _plain(key)
        if label in ("le", "quantile") or label.startswith("__") or not label or label[0].isdigit():
            label = f"tag_{label}"
        return next(each for each in _candidates(label, key) if self._keys.setdefault(each, key) == key)


def _candidates(plain: str, whole: str) -> Iterator[str]:
    """What something may be called: best as it is, else with a checksum of all that it is."""
    yield plain
    checksum = f"{plain}_{zlib.crc32(whole.encode('utf-8', 'backslashreplace')):08x}"
    yield checksum
    yield from (f"{checksum}_{n}" for n in itertools.count(2))


def _plain(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _text(text: str) -> str:
    """Half a character, which no UTF-8 can hold, becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode()
