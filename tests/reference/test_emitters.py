"""An emitter belongs to one request at a time, and to the next only when it has forgotten the last."""

import asyncio
import gc
import random
import weakref

import pytest

from reference_impl.emitters import EmitterPool, LeaseExpired, PoolExhausted

pytestmark = pytest.mark.asyncio


@pytest.fixture
def sent():
    return []


@pytest.fixture
def pool(sent):
    return EmitterPool(lambda user, event: sent.append((user, event)) or 1, ready=1, limit=2, timeout_s=0.05)


async def test_events_reach_the_user_of_the_lease_numbered(pool, sent):
    """In order, from one."""
    lease = await pool.acquire("alice")
    lease.emit("agent_started", {"a": 1})
    lease.emit("agent_completed", {})
    assert sent == [
        ("alice", {"kind": "agent_started", "sequence": 1, "a": 1}),
        ("alice", {"kind": "agent_completed", "sequence": 2}),
    ]


async def test_an_unknown_kind_of_event_is_refused(pool):
    """With those that there are."""
    lease = await pool.acquire("alice")
    with pytest.raises(ValueError, match="no event of kind 'party'; there are agent_completed, agent_started"):
        lease.emit("party", {})


async def test_a_late_task_of_the_old_owner_cannot_write_to_the_new_one(pool, sent):
    """It holds a lease, not the emitter."""
    old = await pool.acquire("alice")
    pool.release(old)
    new = await pool.acquire("bob")
    with pytest.raises(LeaseExpired, match="the emitter of alice has been returned"):
        old.emit("error", {"secret": "alice's"})
    new.emit("agent_started", {})
    assert [user for user, _ in sent] == ["bob"]


async def test_the_next_owner_begins_anew(pool, sent):
    """Numbers do not tell how busy the last one was."""
    for user in ("alice", "bob"):
        lease = await pool.acquire(user)
        lease.emit("agent_started", {})
        pool.release(lease)
    assert [event["sequence"] for _, event in sent] == [1, 1]


async def test_releasing_twice_gives_nothing_away(pool):
    """Else two owners would hold one emitter."""
    lease = await pool.acquire("alice")
    pool.release(lease)
    pool.release(lease)
    first, second = await pool.acquire("bob"), await pool.acquire("carol")
    assert first._emitter is not second._emitter


async def test_releasing_an_old_lease_does_not_touch_the_new_owner(pool, sent):
    """A clean-up that comes late."""
    old = await pool.acquire("alice")
    pool.release(old)
    new = await pool.acquire("bob")
    pool.release(old)
    new.emit("agent_started", {})
    assert [user for user, _ in sent] == ["bob"]


async def test_the_pool_grows_to_its_limit_and_then_waits_in_order(pool):
    """First come, first served."""
    held = [await pool.acquire("a"), await pool.acquire("b")]
    order = []

    async def wait(name):
        lease = await pool.acquire(name)
        order.append(name)
        pool.release(lease)

    async with asyncio.TaskGroup() as tasks:
        for name in ("first", "second", "third"):
            tasks.create_task(wait(name))
        await asyncio.sleep(0)
        assert pool.figures.waiting == 3
        for lease in held:
            pool.release(lease)
    assert order == ["first", "second", "third"]
    assert (pool.figures.size, pool.figures.in_use) == (2, 0)


async def test_what_was_returned_last_is_lent_first():
    """It is the one that is still in the cache."""
    pool = EmitterPool(lambda user, event: 1, ready=3, limit=3)
    leases = [await pool.acquire(user) for user in ("a", "b", "c")]
    returned = [leases[number]._emitter for number in (1, 0, 2)]
    for number in (1, 0, 2):
        pool.release(leases[number])
    again = [await pool.acquire("e") for _ in range(3)]
    assert [lease._emitter for lease in again] == list(reversed(returned))


async def test_nobody_overtakes_those_who_wait(pool):
    """Not even when an emitter was returned in this very moment."""
    held = [await pool.acquire("a"), await pool.acquire("b")]
    waiting = asyncio.create_task(pool.acquire("patient"))
    await asyncio.sleep(0)
    pool.release(held[0])
    late = asyncio.create_task(pool.acquire("late"))
    assert (await waiting).user_id == "patient"
    pool.release(held[1])
    assert (await late).user_id == "late"


async def test_who_waits_too_long_is_told(pool):
    """And is forgotten by the pool."""
    held = [await pool.acquire("a"), await pool.acquire("b")]
    with pytest.raises(PoolExhausted, match=r"all 2 emitters are in use; none was returned within 0\.05 s"):
        await pool.acquire("c")
    assert list(pool._waiting) == []
    for lease in held:
        pool.release(lease)
    assert (pool.figures.in_use, pool.figures.waiting) == (0, 0)


async def test_a_cancelled_waiter_gives_back_what_it_was_just_given(pool):
    """The emitter and the cancellation may come in the same moment."""
    held = [await pool.acquire("a"), await pool.acquire("b")]
    waiting = asyncio.create_task(pool.acquire("c"))
    await asyncio.sleep(0)
    pool.release(held[0])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    pool.release(held[1])
    assert pool.figures.in_use == 0


@pytest.mark.parametrize(("ready", "limit"), [(3, 2), (-1, 2), (0, 0)])
async def test_impossible_sizes_are_refused(ready, limit):
    """Before the first request."""
    with pytest.raises(ValueError, match="0 ≤ ready ≤ limit"):
        EmitterPool(lambda user, event: 0, ready=ready, limit=limit)


@pytest.mark.parametrize("seed", range(20))
async def test_under_chaos_no_emitter_ever_has_two_owners_and_none_is_lost(seed):
    """Users come, wait, are cancelled, release twice."""
    rng = random.Random(seed)
    pool = EmitterPool(lambda user, event: 1, ready=2, limit=4, timeout_s=1)
    owners = {}

    async def use(user):
        lease = await pool.acquire(user)
        emitter = lease._emitter
        assert emitter not in owners
        owners[emitter] = user
        try:
            await asyncio.sleep(rng.random() / 500)
            lease.emit("agent_started", {})
        finally:
            del owners[emitter]
            for _ in range(rng.randint(1, 2)):
                pool.release(lease)

    tasks = [asyncio.create_task(use(f"user-{i}")) for i in range(40)]
    for task in rng.sample(tasks, 10):
        await asyncio.sleep(rng.random() / 1000)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    assert (pool.figures.in_use, pool.figures.waiting, pool.figures.size) == (0, 0, 4)


async def test_a_lease_that_is_dropped_comes_back_and_is_counted(pool):
    """Somebody forgot to return it."""
    lease = await pool.acquire("alice")
    lease.emit("agent_started", {})
    del lease
    assert (pool.figures.in_use, pool.figures.lost) == (0, 1)


async def test_a_lease_that_is_dropped_wakes_whoever_waits(pool):
    """Nobody else may ever return one."""
    held = [await pool.acquire("a"), await pool.acquire("b")]
    waiting = asyncio.create_task(pool.acquire("c"))
    await asyncio.sleep(0)
    held.clear()
    assert (await waiting).user_id == "c"


async def test_a_lease_holds_nothing_once_it_is_dropped(pool):
    """No reference cycle keeps a request alive until the garbage collector comes."""
    gc.disable()
    try:
        lease = await pool.acquire("alice")
        gone = weakref.ref(lease)
        pool.release(lease)
        del lease
        assert gone() is None
    finally:
        gc.enable()


async def test_the_figures_say_who_waited_and_who_waited_in_vain(pool):
    """Of all, since the beginning."""
    held = [await pool.acquire("a"), await pool.acquire("b")]
    with pytest.raises(PoolExhausted):
        await pool.acquire("c")
    waiting = asyncio.create_task(pool.acquire("d"))
    await asyncio.sleep(0)
    pool.release(held[0])
    await waiting
    figures = pool.figures
    assert (figures.created, figures.waited, figures.timeouts, figures.size) == (2, 2, 1, 2)


async def test_data_cannot_pretend_to_be_another_event(pool, sent):
    """Kind and number are the emitter's."""
    lease = await pool.acquire("alice")
    lease.emit("agent_started", {"kind": "error", "sequence": 99})
    assert sent == [("alice", {"kind": "agent_started", "sequence": 1})]


async def test_without_reuse_every_request_has_a_new_one_and_the_limit_holds(sent):
    """To compare with."""
    pool = EmitterPool(lambda user, event: 1, ready=1, limit=1, timeout_s=5, reuse=False)
    first = await pool.acquire("a")
    waiting = asyncio.create_task(pool.acquire("b"))
    await asyncio.sleep(0)
    pool.release(first)
    second = await waiting
    assert first._emitter is not second._emitter
    pool.release(second)
    assert (pool.figures.created, pool.figures.size, pool.figures.in_use) == (2, 0, 0)
