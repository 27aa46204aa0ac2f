"""OpenTelemetry's spans as samples: what the backend traces anyway can be judged by name."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_isolation.latency.spans import Ledger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

_listeners: weakref.WeakKeyDictionary[TracerProvider, Any] = weakref.WeakKeyDictionary()


@contextmanager
def listening(ledger: Ledger) -> Iterator[None]:
    """Take every span that ends meanwhile as a sample; a program that does not use OpenTelemetry pays nothing.

    The provider is the one that was set globally, or those that were named with ``listen_to`` before. A provider
    cannot forget a processor, so each gets one, which sleeps between tests.

    Args:
        ledger: where samples go.
    """
    provider = _global_provider()
    if provider is not None:
        listen_to(provider)
    for listener in _listeners.values():
        listener.ledger = ledger
    try:
        yield
    finally:
        for listener in _listeners.values():
            listener.ledger = None


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

        def on_end(self, span: ReadableSpan) -> None:
            ledger = self.ledger
            if ledger is None or span.start_time is None or span.end_time is None:
                return
            if span.status.status_code is StatusCode.ERROR:  # as with a span of our own that raises
                ledger.raised[span.name] += 1
            else:
                ledger.add(max(0.0, (span.end_time - span.start_time) / 1e9), span.name)

    return Listener()
