"""The steps of a finding are told by lines that a reader knows."""

import asyncio
import linecache
from pathlib import Path

import anyio
import pytest

from pytest_isolation.phases.interleaving import standing


async def in_a_task_group(_event):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 60)


async def in_a_scope(event):
    with anyio.move_on_after(60):
        await event.wait()


async def in_a_lock(event):
    async with anyio.Lock():
        await event.wait()


async def in_a_stream(_event):
    send, receive = anyio.create_memory_object_stream(0)
    with send, receive:
        await receive.receive()


@pytest.mark.parametrize("waits", [in_a_task_group, in_a_scope, in_a_lock, in_a_stream])
def test_a_step_is_told_by_the_users_line_and_not_by_one_of_anyio(waits):
    """Who waits for a task group waits in the block."""

    async def look():
        task = asyncio.ensure_future(waits(anyio.Event()))
        await asyncio.sleep(0.01)
        said = standing(task)
        task.cancel()
        await asyncio.wait([task])
        return said

    said = asyncio.run(look())
    assert said.startswith(f"{Path(__file__).name}:")
    number = int(said.partition(":")[2].partition(" ")[0])
    assert said.endswith(f"{waits.__name__}()  {linecache.getline(__file__, number).strip()}")
