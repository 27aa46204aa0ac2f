"""A context closes the session that it was lent, and with it the transaction of its parent."""

import asyncio

import pytest

FAULTY = True
FOUND = "pool"


class Session:
    def __init__(self, recorder):
        self.recorder = recorder
        self.is_open = True
        recorder.acquired(self)

    async def execute(self, statement):
        self.recorder.used(self)
        await asyncio.sleep(0)
        return statement

    def close(self):
        if self.is_open:
            self.is_open = False
            self.recorder.released(self)


class Context:
    def __init__(self, session, owns):
        self.session, self.owns = session, owns

    def close(self):
        if FAULTY or self.owns:
            self.session.close()


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user, isolation_watch):
    parent = Context(Session(isolation_watch.recorder("sessions")), owns=True)
    child = Context(parent.session, owns=False)
    child.close()
    try:
        user.observe(await parent.session.execute(user.id))
    finally:
        parent.close()
