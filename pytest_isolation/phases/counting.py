"""Hears what goes out to whoever watches the backend: labels, exemplars and attributes of metrics, and baggage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from pytest_isolation.phases.hearing import plain, text, told_all
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.cast import overhear


def counters() -> Iterator[AbstractContextManager[None]]:
    """What listens to the libraries that the backend has imported."""
    if "prometheus_client" in sys.modules:
        from prometheus_client import Counter, Histogram, Info
        from prometheus_client.metrics import MetricWrapperBase

        yield told_all(MetricWrapperBase, "labels", _hear_labels)
        yield told_all(Counter, "inc", _hear_exemplar)
        yield told_all(Histogram, "observe", _hear_exemplar)
        yield told_all(Info, "info", _hear_info)
    if "opentelemetry.sdk.metrics" in sys.modules:
        from opentelemetry.sdk import metrics

        for kind, name in (("Counter", "add"), ("UpDownCounter", "add"), ("Histogram", "record"), ("_Gauge", "set")):
            if hasattr(metrics, kind):
                yield told_all(getattr(metrics, kind), name, _hear_attributes)
    if "opentelemetry.baggage" in sys.modules:
        from opentelemetry import baggage

        # Whoever has imported `set_baggage` by its name calls this in the end.
        yield told_all(baggage, "set_value", _hear_baggage)


def _hear_labels(metric: Any, *values: Any, **named: Any) -> None:
    said = {name: text(value) for name, value in (*zip(metric._labelnames, values, strict=False), *named.items())}
    _hear(metric._name, said)


def _hear_exemplar(metric: Any, *args: Any, **named: Any) -> None:
    exemplar = named.get("exemplar") or next(iter(args[1:]), None)
    if exemplar:
        _hear(metric._name, {"exemplar": plain(exemplar)})


def _hear_info(metric: Any, *args: Any, **named: Any) -> None:
    _hear(metric._name, plain([*args, *named.values()]))


def _hear_attributes(instrument: Any, *args: Any, **named: Any) -> None:
    attributes = named.get("attributes") or next(iter(args[1:]), None)
    if attributes:
        _hear(instrument.name, {text(key): plain(value) for key, value in [*attributes.items()]})


def _hear_baggage(*args: Any, **named: Any) -> None:
    if (user := AT_WORK.get()) is not None:
        overhear(user, "baggage", plain(named["value"] if "value" in named else next(iter(args[1:]), None)))


def _hear(name: str, said: object) -> None:
    if (user := AT_WORK.get()) is not None:
        overhear(user, f"metric {name}", said)
