"""An event goes to the inboxes of one user."""

import asyncio

import pytest

from reference_impl.connections import Connections, Inbox

pytestmark = pytest.mark.asyncio


async def test_an_event_reaches_every_inbox_of_its_user_and_no_other():
    """Two tabs of alice, one of bob."""
    connections = Connections()
    async with (
        connections.connect("alice") as one,
        connections.connect("alice") as two,
        connections.connect("bob") as bob,
    ):
        assert connections.dispatch("alice", {"n": 1}) == 2
        assert [await one.receive(), await two.receive()] == [{"n": 1}] * 2
        assert bob.pending() == 0


async def test_who_has_left_receives_nothing_and_is_forgotten():
    """The table holds nobody who is not there."""
    connections = Connections()
    async with connections.connect("alice") as inbox:
        pass
    assert connections.dispatch("alice", {}) == 0
    assert (inbox.pending(), len(connections), connections._inboxes) == (0, 0, {})


async def test_closing_one_tab_leaves_the_other_open():
    """They are two listeners."""
    connections = Connections()
    async with connections.connect("alice") as stays:
        async with connections.connect("alice"):
            pass
        assert connections.dispatch("alice", {"n": 1}) == 1
        assert await stays.receive() == {"n": 1}


async def test_receiving_waits_for_the_next_event():
    """And is woken by it."""
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.receive())
    await asyncio.sleep(0)
    inbox.put({"n": 1})
    assert await waiting == {"n": 1}


async def test_an_event_is_not_lost_with_a_cancelled_receiver():
    """The next one gets it."""
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    inbox.put({"n": 1})
    assert await inbox.receive() == {"n": 1}


async def test_the_wake_up_of_a_cancelled_receiver_goes_to_the_next_one():
    """The event arrives in the very moment in which the first one gives up."""
    inbox = Inbox()
    first, second = (asyncio.create_task(inbox.receive()) for _ in range(2))
    await asyncio.sleep(0)
    inbox.put({"n": 1})
    first.cancel()
    async with asyncio.timeout(5):
        assert await second == {"n": 1}


async def test_a_slow_listener_loses_its_oldest_events_and_it_is_counted():
    """It delays nobody, and its memory is bounded."""
    inbox = Inbox(limit=2)
    for n in range(5):
        inbox.put({"n": n})
    assert (inbox.pending(), inbox.dropped) == (2, 3)
    assert await inbox.receive() == {"n": 3}
