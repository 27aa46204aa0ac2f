"""Where the time goes."""

import sys

import pytest

from pytest_isolation.profile.bottlenecks import find_bottlenecks


@pytest.fixture
def anyio_backend():
    return "asyncio"


def busy(count):
    return sum(i * i for i in range(count))


async def slow():
    for _ in range(20):
        busy(2000)


async def fast():
    busy(100)


async def both():
    await slow()
    await fast()


@pytest.mark.anyio
async def test_the_function_that_takes_longest_comes_first():
    """With all that it calls, and by itself."""
    found = await find_bottlenecks(both, 30)
    names = [one.name for one in found.application]
    assert names.index("slow") < (names.index("fast") if "fast" in names else len(names))
    [whole] = [one.whole for one in found.application if one.name == "slow"]
    assert whole > 0.7
    assert "busy" in found.own[0].name or "genexpr" in found.own[0].name
    assert all(0 <= one.own <= one.whole + 1e-9 for one in found.own)


@pytest.mark.anyio
async def test_waiting_is_no_work():
    import anyio

    async def waits():
        await anyio.sleep(0.01)
        busy(2000)

    found = await find_bottlenecks(waits, 20)
    assert found.idle > 0.5


def test_the_functions_are_in_the_report(profile):
    ended = profile("--e2e", "--iterations", "30")
    assert "where the time goes (the event loop had nothing to do for " in ended.out
    assert any("(reference_impl/agents.py:" in note for note in ended.notes)


def test_without_the_extra_a_note_names_it(profile, monkeypatch):
    """Everything else is measured."""
    monkeypatch.setitem(sys.modules, "pyinstrument", None)
    ended = profile("--e2e", "--backend", "profiling.kiosk:Kiosk")
    assert ended.code == 0
    assert "where the time goes is seen with an extra: pip install 'pytest-isolation[profile]'" in ended.notes
