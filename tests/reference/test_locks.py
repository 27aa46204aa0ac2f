"""One lock for each key, held weakly."""

import asyncio
import gc

import pytest

from reference_impl.locks import Keyed

pytestmark = pytest.mark.asyncio


async def test_one_key_has_one_lock_and_two_keys_have_two():
    """Users do not wait for one another."""
    locks = Keyed(asyncio.Lock)
    async with locks.of("alice"):
        assert locks.of("alice").locked()
        assert not locks.of("bob").locked()


async def test_keys_are_whole_values_and_never_parts_of_them():
    """A user `acme` with a thread `bob:1` is not a user `acme:bob` with a thread `1`."""
    locks = Keyed(asyncio.Lock)
    async with locks.of(("acme", "bob:1")):
        assert not locks.of(("acme:bob", "1")).locked()


async def test_who_waits_for_a_key_gets_it_in_turn():
    """And nobody gets in between."""
    locks, order = Keyed(asyncio.Lock), []

    async def use(name):
        async with locks.of("thread"):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(use("a"), use("b"), use("c"))
    assert order == ["a in", "a out", "b in", "b out", "c in", "c out"]


async def test_users_who_have_gone_cost_nothing():
    """The table is empty again."""
    locks = Keyed(asyncio.Lock)
    for number in range(100):
        async with locks.of(number):
            assert len(locks) == 1
    gc.collect()
    assert len(locks) == 0


async def test_a_semaphore_keeps_its_permits_as_long_as_anybody_is_in():
    """A table that forgot it too early would hand out the limit anew."""
    limits, inside, most = Keyed(lambda: asyncio.Semaphore(10)), 0, 0

    async def use():
        nonlocal inside, most
        async with limits.of("alice"):
            inside += 1
            most = max(most, inside)
            gc.collect(0)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(use() for _ in range(50)))
    assert most == 10


async def test_one_for_all_is_the_coarse_lock_to_compare_with():
    """Every key has the same."""
    locks = Keyed(asyncio.Lock, shared=True)
    assert locks.of("alice") is locks.of("bob")
