"""The manager belongs to the thread: who closes one tab closes the other."""

import asyncio

import pytest

FAULTY = True
FOUND = "pool"


class Manager:
    pass


class Managers:
    def __init__(self, recorder):
        self.recorder = recorder
        self.table = {}

    def connect(self, user_id, thread, tab):
        key = (user_id, thread) if FAULTY else (user_id, thread, tab)
        if key not in self.table:
            self.table[key] = Manager()
            self.recorder.acquired(self.table[key])
        return key

    async def send(self, key, manager):
        await asyncio.sleep(0)
        self.recorder.used(manager)

    def close(self, key):
        if (manager := self.table.pop(key, None)) is not None:
            self.recorder.released(manager)


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user, isolation_watch):
    managers = Managers(isolation_watch.recorder("managers"))
    first, second = (managers.connect(user.id, "main", tab) for tab in (1, 2))
    manager = managers.table[second]
    managers.close(first)
    try:
        await managers.send(second, manager)
    finally:
        managers.close(second)
    user.observe(user.id)
