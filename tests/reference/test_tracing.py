"""A timed operation is a span, with what belongs to it and nothing else."""

import asyncio

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from reference_impl import ReferenceBackend
from reference_impl.metrics import Metrics
from reference_impl.settings import Settings
from reference_impl.tracing import trace_operations

pytestmark = pytest.mark.asyncio


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def metrics(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    metrics = Metrics()
    trace_operations(metrics, provider)
    yield metrics
    provider.shutdown()


async def test_operations_are_spans_inside_one_another(metrics, exporter):
    """With their tags, and counted all the same."""
    async with metrics.timed_operation("api.request", {"endpoint": "/chat"}):
        with metrics.timed_operation("authenticate"):
            await asyncio.sleep(0)
    inner, outer = exporter.get_finished_spans()
    assert (inner.name, outer.name, dict(outer.attributes)) == ("authenticate", "api.request", {"endpoint": "/chat"})
    assert inner.parent.span_id == outer.context.span_id
    assert metrics.series("authenticate").count == 1


async def test_an_error_is_recorded_and_passes_through(metrics, exporter):
    """On the span and in the counter."""
    with pytest.raises(KeyError):
        async with metrics.timed_operation("api.request"):
            raise KeyError("k")
    [span] = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]


async def test_spans_of_concurrent_users_do_not_nest_in_one_another(metrics, exporter):
    """Each belongs to its own task."""

    async def serve(endpoint):
        async with metrics.timed_operation("api.request", {"endpoint": endpoint}):
            await asyncio.sleep(0.001)
            with metrics.timed_operation("inner", {"endpoint": endpoint}):
                await asyncio.sleep(0.001)

    await asyncio.gather(*(serve(f"/{n}") for n in range(20)))
    outer = {s.attributes["endpoint"]: s for s in exporter.get_finished_spans() if s.name == "api.request"}
    inner = [s for s in exporter.get_finished_spans() if s.name == "inner"]
    assert len(inner) == len(outer) == 20
    assert all(span.parent.span_id == outer[span.attributes["endpoint"]].context.span_id for span in inner)
    assert all(span.parent is None for span in outer.values())


async def test_without_it_there_are_no_spans(exporter):
    """Another backend in the same process is not touched."""
    with Metrics().timed_operation("api.request"):
        pass
    assert exporter.get_finished_spans() == ()


async def test_a_backend_traces_if_its_settings_say_so(exporter):
    """Each request's agent is a span, with what it calls inside it; without the setting there is none."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for is_traced in (False, True):
        backend = ReferenceBackend(Settings(trace_operations=is_traced))
        if is_traced:
            trace_operations(backend.metrics, provider)  # instead of the global one, which can be set only once
        await backend.start()
        try:
            async with backend.request("alice") as request:
                await (await request.agent("chat")).run("hi")
        finally:
            await backend.aclose()
    [span] = exporter.get_finished_spans()
    assert (span.name, dict(span.attributes)) == ("agent.run", {"agent": "ChatAgent"})
