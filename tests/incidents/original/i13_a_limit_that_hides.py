"""Managers are cleaned up under another key than they are made; the limit was raised until nobody met it."""

import asyncio
import itertools

import pytest

FAULTY = True
FOUND = "retained"

LIMIT = 2000
managers, numbers = {}, itertools.count()


class Manager:
    pass


def thread_of(user_id):
    return f"thread_{user_id}_{next(numbers)}" if FAULTY else f"thread_{user_id}"


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    if len(managers) >= LIMIT:
        raise RuntimeError("too many managers")
    managers[thread_of(user.id)] = user.track(Manager())
    try:
        await asyncio.sleep(0)
        user.observe(user.id)
    finally:
        managers.pop(thread_of(user.id), None)
