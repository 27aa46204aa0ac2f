"""What each stage may cost: a few times what it does cost, so that a regression shows.

The specification's budgets lie a thousand times above these costs; a stage that became a hundred times dearer would
keep them. These run under coverage, which makes Python several times slower.
"""

import itertools

import pytest

from reference_impl import create_backend

pytestmark = pytest.mark.anyio
_numbers = itertools.count()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def backend():
    backend = create_backend()
    await backend.start()
    yield backend
    await backend.aclose()


@pytest.mark.latency(span="create", p95_ms=0.1)
@pytest.mark.latency(span="agent", p95_ms=0.1)
@pytest.mark.latency(span="dispatch", p95_ms=0.1)
@pytest.mark.latency(span="cleanup", p95_ms=0.1)
async def test_the_stages_of_a_request(backend, latency):
    """A context, an agent, an event, the end: about ten microseconds each here."""
    async with backend.connect("alice") as inbox:
        scope = backend.request("alice")
        with latency.span("create"):
            request = await scope.__aenter__()
        with latency.span("agent"):
            await request.agent("chat")
        with latency.span("dispatch"):
            await request.emit("agent_thinking", {"about": "x"})
            await inbox.receive()
        with latency.span("cleanup"):
            await scope.__aexit__(None, None, None)


@pytest.mark.latency(p95_ms=5)
async def test_a_session_with_one_round_trip(backend):
    """Half a millisecond here, on SQLite."""
    async with backend.request("alice") as request, request.session() as session:
        await session.ping()


@pytest.mark.latency(p95_ms=10)
async def test_a_whole_request(backend):
    """Two milliseconds here."""
    async with backend.request(f"user-{next(_numbers)}") as request:
        await (await request.agent("chat")).run("hi")


@pytest.mark.latency(p95_ms=0.1)
def test_an_operation_that_is_measured(latency):
    """Two microseconds here."""
    from reference_impl.metrics import Metrics

    metrics = Metrics()

    def timed():
        with metrics.timed_operation("job"):
            pass

    latency.measure_sync(timed)
