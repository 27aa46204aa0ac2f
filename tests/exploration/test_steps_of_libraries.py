"""Steps name the user's own code, also where a library waits in it, and pass over tasks that are a library's own."""

import asyncio

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from pytest_isolation.phases.interleaving import Trace, Turn, render, standing

USER = Turn("user-00", 0.0, "shop.py:1 mine()", "shop.py:2 mine()")
NEXT = Turn("user-00", 0.0, "shop.py:2 mine()", "ends")
CLOSE = Turn("close#1", 0.0, "session.py:9 close()", "ends", is_library=True)


@pytest_asyncio.fixture
async def engine(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    yield engine
    await engine.dispose()


async def mine(engine):
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


@pytest.mark.asyncio
async def test_where_a_library_waits_the_users_own_line_stands_too(engine):
    """As the cancel sweep says it."""
    task, seen = asyncio.create_task(mine(engine)), set()
    while not task.done():
        seen.add(standing(task))
        await asyncio.sleep(0)
    inside = [said for said in seen if "aiosqlite/core.py:" in said]
    assert inside
    ends = ('mine()  await connection.execute(text("SELECT 1"))', "mine()  async with engine.connect() as connection:")
    assert all(" ← test_steps_of_libraries.py:" in said and said.endswith(ends) for said in inside)


@pytest.mark.asyncio
async def test_whose_task_it_is(engine):
    """A session that closes itself is SQLAlchemy's; the user's task is the user's, though a library waits in it."""
    trace = Trace()

    async def stepped(task):
        while not task.done():
            trace.step(task, 0.0, None)
            await asyncio.sleep(0)
        trace.end()

    await stepped(asyncio.create_task(mine(engine), name="user-00"))
    await stepped(asyncio.create_task(AsyncSession(engine).close()))
    assert {(turn.who, turn.is_library) for turn in trace.turns} == {("user-00", False), ("close#1", True)}


def test_tasks_of_libraries_are_only_counted():
    """What the user did before and after them are two rows: it went on somewhere else."""
    assert render([USER, USER, CLOSE, NEXT]).splitlines() == [
        "     0.0 ms  user-00: shop.py:1 mine() → shop.py:2 mine() (2 steps)",
        "     0.0 ms  user-00: shop.py:2 mine() → ends",
        "  … not shown: 1 step of 1 task of libraries",
    ]


@pytest.mark.parametrize("part", [{"deviation": "ahead of user-00"}, {"guilty": True}], ids=["deviation", "guilty"])
def test_a_task_that_has_a_part_in_it_is_shown(part):
    """Whosever it is."""
    turn = Turn(**{name: getattr(CLOSE, name) for name in Turn.__slots__} | part)
    steps = render([USER, turn, USER])
    assert "close#1" in steps
    assert "not shown" not in steps
