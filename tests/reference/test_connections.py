"""An event goes to the inboxes of one user."""

import asyncio

import pytest

from reference_impl.connections import Connections, Inbox, InboxClosed

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


async def test_a_slow_listener_loses_its_oldest_events_and_is_told_which():
    """How many of each kind, and their numbers; it delays nobody, and its memory is bounded."""
    inbox = Inbox(limit=2)
    kinds = ["agent_started", "agent_thinking", "agent_thinking", "tool_executing", "agent_completed"]
    events = [{"kind": kind, "sequence": number} for number, kind in enumerate(kinds, 1)]
    for event in events:
        inbox.put(event)
    assert (inbox.pending(), inbox.dropped) == (2, 3)
    assert await inbox.receive() == {
        "kind": "dropped",
        "reason": "the listener was too slow",
        "count": 3,
        "kinds": {"agent_started": 1, "agent_thinking": 2},
        "from": 1,
        "to": 3,
    }
    assert [await inbox.receive() for _ in range(2)] == events[3:]


async def test_a_slow_listener_takes_nothing_from_another_of_the_same_user():
    """Each has a queue of its own."""
    connections = Connections(limit=2)
    async with connections.connect("alice") as slow, connections.connect("alice") as quick:
        for n in range(4):
            connections.dispatch("alice", {"n": n})
            assert await quick.receive() == {"n": n}
        assert (slow.dropped, quick.dropped) == (2, 0)


async def test_a_batch_waits_for_company_up_to_its_size():
    """In order."""
    inbox = Inbox()
    for n in range(5):
        inbox.put({"n": n})
    assert await inbox.receive_batch(3, 60) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert await inbox.receive_batch(3, 0.001) == [{"n": 3}, {"n": 4}]


async def test_a_batch_takes_in_what_comes_while_it_waits():
    """And ends with the size, not with the time."""
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.receive_batch(2, 60))
    for n in range(2):
        await asyncio.sleep(0)
        inbox.put({"n": n})
    assert await waiting == [{"n": 0}, {"n": 1}]


async def test_closing_flushes_a_batch_that_waits():
    """Nothing is kept for company that will not come."""
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.receive_batch(10, 60))
    await asyncio.sleep(0)
    inbox.put({"n": 0})
    await asyncio.sleep(0)
    inbox.close()
    assert await waiting == [{"n": 0}]
    with pytest.raises(InboxClosed):
        await inbox.receive_batch(10, 60)


async def test_a_batch_that_is_cancelled_loses_nothing():
    """Whoever reads next gets what it had gathered, in order."""
    inbox = Inbox()
    inbox.put({"n": 0})
    waiting = asyncio.create_task(inbox.receive_batch(10, 60))
    await asyncio.sleep(0)
    inbox.put({"n": 1})
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert [await inbox.receive() for _ in range(2)] == [{"n": 0}, {"n": 1}]


async def test_a_batch_that_is_cancelled_when_there_is_no_room_any_more_loses_the_oldest_and_says_so():
    """As ever; what came last is kept."""
    inbox = Inbox(limit=2)
    inbox.put({"kind": "x", "sequence": 1})
    waiting = asyncio.create_task(inbox.receive_batch(10, 60))
    await asyncio.sleep(0)
    for number in (2, 3):
        inbox.put({"kind": "x", "sequence": number})
    waiting.cancel()
    await asyncio.wait([waiting])
    notice, *kept = [await inbox.receive() for _ in range(3)]
    assert (notice["count"], notice["from"], notice["to"], inbox.dropped) == (1, 1, 1, 1)
    assert [event["sequence"] for event in kept] == [2, 3]


async def test_a_notice_that_is_dropped_itself_is_part_of_the_next_one():
    """Every event is counted once."""
    inbox = Inbox(limit=1)
    for number in (1, 2, 3):
        inbox.put({"kind": "x", "sequence": number})
    waiting = asyncio.create_task(inbox.receive_batch(10, 60))
    await asyncio.sleep(0)
    inbox.put({"kind": "y", "sequence": 4})
    waiting.cancel()
    await asyncio.wait([waiting])
    notice = await inbox.receive()
    assert (notice["count"], notice["kinds"], notice["from"], notice["to"]) == (3, {"x": 3}, 1, 3)
    assert (inbox.dropped, (await inbox.receive())["sequence"]) == (3, 4)


async def test_who_gave_up_waiting_leaves_nothing_behind():
    """An inbox on which somebody looks now and then does not grow."""
    inbox = Inbox()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(inbox.receive(), 0.001)
    assert inbox._waiting == []


async def test_what_was_dropped_is_counted_for_all():
    """Also of those who have left."""
    connections = Connections(limit=1)
    async with connections.connect("bob"):
        async with connections.connect("alice"):
            for user in ("alice", "alice", "alice", "bob", "bob"):
                connections.dispatch(user, {"kind": "x"})
            assert connections.dropped == 3
        assert connections.dropped == 3


async def test_after_closing_what_is_there_can_still_be_read():
    """And then the end is said, to everybody who waits."""
    connections = Connections()
    async with connections.connect("alice") as inbox, connections.connect("bob") as empty:
        connections.dispatch("alice", {"n": 1})
        waiting = [asyncio.create_task(empty.receive()) for _ in range(2)]
        await asyncio.sleep(0)
        connections.close()
        connections.dispatch("alice", {"n": 2})
        assert await inbox.receive() == {"n": 1}
        with pytest.raises(InboxClosed):
            await inbox.receive()
        assert [type(e) for e in await asyncio.gather(*waiting, return_exceptions=True)] == [InboxClosed] * 2


async def test_a_listener_connects_once():
    """A second time would leave the first inbox behind."""
    connection = Connections().connect("alice")
    async with connection:
        with pytest.raises(RuntimeError, match="has connected already"):
            await connection.__aenter__()


async def test_who_connects_while_an_event_is_delivered_disturbs_nobody():
    """The table is replaced, not changed."""
    connections = Connections()

    class Curious(Inbox):
        def put(self, event):
            connections._add("alice")
            super().put(event)

    connections._inboxes["alice"] = (Curious(), Curious())
    assert connections.dispatch("alice", {"n": 1}) == 2
    assert len(connections) == 4
