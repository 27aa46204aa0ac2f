"""What only many requests show."""

import gc
import tracemalloc

import pytest

from reference_impl import create_backend

pytestmark = [pytest.mark.asyncio, pytest.mark.soak]


async def test_requests_leave_nothing_behind():
    """After 20,000 requests the backend holds what it held after 2,000."""
    backend = create_backend()
    await backend.start()

    async def serve(count):
        for number in range(count):
            async with backend.request(f"user-{number % 100}") as request:
                await request.emit("agent_thinking", {"about": "x"})
                async with request.session() as session:
                    await session.ping()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = await serve(2_000)
        after = await serve(18_000)
    finally:
        tracemalloc.stop()
        await backend.aclose()
    assert after - before < 18_000  # less than a byte a request
