"""What only many requests show."""

import gc
import tracemalloc

import pytest

from reference_impl import ReferenceBackend
from reference_impl.settings import Settings

pytestmark = [pytest.mark.asyncio, pytest.mark.soak]


async def test_requests_leave_nothing_behind():
    """Between 20,000 and 100,000 requests the backend does not grow; before, caches and pools fill."""
    backend = ReferenceBackend(Settings(sample_rate=1.0))  # its ring of details is full after 3,000 requests
    await backend.start()

    async def serve(count):
        for number in range(count):
            async with backend.request(f"user-{number % 100}") as request:
                await request.emit("agent_thinking", {"about": "x"})
                await request.agent("chat")
                if number % 20 == 0:
                    async with request.session() as session:
                        await session.ping()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = await serve(20_000)
        after = await serve(80_000)
    finally:
        tracemalloc.stop()
        await backend.aclose()
    assert after - before < 40_000  # half a byte a request: counters outgrow the small numbers that Python shares
