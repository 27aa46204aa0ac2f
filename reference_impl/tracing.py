"""Timed operations as spans of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.trace import Span, TracerProvider

from reference_impl.metrics import Metrics

_NAME = "reference_impl"


def trace_operations(metrics: Metrics, provider: TracerProvider | None = None) -> None:
    """From now on, every ``timed_operation`` is a span too, with its tags as attributes and its error recorded.

    What is only counted (``Metrics.record``) has no beginning, so it is none. A span has no attribute that a tag has
    not: no user, no message.

    Args:
        metrics: of one backend.
        provider: of OpenTelemetry; None is the global one.
    """
    tracer = trace.get_tracer(_NAME, tracer_provider=provider)

    def span(name: str, tags: Mapping[str, str]) -> AbstractContextManager[Span]:
        return tracer.start_as_current_span(name, attributes=dict(tags))

    metrics.trace(span)
