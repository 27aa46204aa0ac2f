"""OpenTelemetry's spans as samples: what the backend traces anyway can be judged by name."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_isolation.latency.noise import Mark
from pytest_isolation.latency.spans import Ledger

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider

Hear = Callable[[dict[str, object]], None]

_listeners: weakref.WeakKeyDictionary[TracerProvider, Any] = weakref.WeakKeyDictionary()


@contextmanager
def listening(ledger: Ledger, hear: Hear | None = None) -> Iterator[None]:
    """Take every span that ends meanwhile as a sample; a program that does not use OpenTelemetry pays nothing.

    The provider is the one that was set globally, or those that were named with ``listen_to`` before. A provider
    cannot forget a processor, so each gets one, which sleeps between tests.

    Args:
        ledger: where samples go.
        hear: is told what every span says, in the Context in which it ends.
    """
    provider = _global_provider()
    if provider is not None:
        listen_to(provider)
    for listener in _listeners.values():
        listener.ledger, listener.hear = ledger, hear
    try:
        yield
    finally:
        for listener in _listeners.values():
            listener.ledger = listener.hear = None
            listener.marks.clear()


def listen_to(provider: TracerProvider, ledger: Ledger | None = None) -> None:
    """Listen to a provider too that was not set globally.

    Args:
        provider: of the SDK; samplers that drop a span hide it from here too.
        ledger: where its samples go from now on.
    """
    if provider not in _listeners:
        _listeners[provider] = _new_listener()
        provider.add_span_processor(_listeners[provider])
    _listeners[provider].ledger = ledger


def _global_provider() -> TracerProvider | None:
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = trace.get_tracer_provider()
    return provider if isinstance(provider, TracerProvider) else None


def _new_listener() -> Any:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import StatusCode

    class Listener(SpanProcessor):
        ledger: Ledger | None = None
        hear: Hear | None = None

        def __init__(self) -> None:
            self.marks: dict[int, Mark] = {}  # of spans that have begun, by their numbers

        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            if self.ledger is not None:
                self.marks[span.context.span_id] = self.ledger.clock.start()

        def on_end(self, span: ReadableSpan) -> None:
            if self.hear is not None:
                self.hear(_said(span))
            ledger, mark = self.ledger, self.marks.pop(span.context.span_id, None)
            if ledger is None or span.start_time is None or span.end_time is None:
                return
            if span.status.status_code is StatusCode.ERROR:  # as with a span of our own that raises
                ledger.raised[span.name] += 1
            else:
                seconds = max(0.0, (span.end_time - span.start_time) / 1e9)
                ledger.add(seconds, span.name, mark and ledger.clock.lost_here_s(mark, seconds))

    return Listener()


def _said(span: ReadableSpan) -> dict[str, object]:
    """What a span carries to whoever collects spans, and the baggage beside it."""
    from opentelemetry import baggage

    events = [{"name": event.name, **(event.attributes or {})} for event in span.events]
    said: dict[str, object] = {"name": span.name, "attributes": dict(span.attributes or {}), "events": events}
    if span.status.description:
        said["status"] = span.status.description
    if carried := baggage.get_all():  # it goes with every request that is made under the span
        said["baggage"] = dict(carried)
    return said
