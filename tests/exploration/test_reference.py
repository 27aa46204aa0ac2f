"""The reference backend with SQLite, whose threads are tasks of the loop: every order of steps, and no event from outside."""

import asyncio
import contextlib
import itertools
import logging
import sqlite3
from dataclasses import replace

import pytest
from exploration.corpus import Case
from sqlalchemy import select

from reference_impl import factory
from reference_impl.backend import ReferenceBackend
from reference_impl.emitters import EmitterPool, Lease
from reference_impl.sessions import UserSession
from reference_impl.settings import BALANCED
from reference_impl.tables import Note

NUMBERS = itertools.count()
# One connection: SQLite lets one write at a time, and would wait for another in the only thread that there is.
ONE = {"database_pool_size": 1, "database_max_overflow": 0}
SMALL = replace(BALANCED, emitters_ready=1, emitters_limit=2, lazy_start=False, sample_rate=0.0, **ONE)


class Chats:
    """A backend of its own, with a database in memory, for every run."""

    async def __aenter__(self):
        name = f"file:/explored-{next(NUMBERS)}?vfs=memdb"
        self.kept = sqlite3.connect(name, uri=True)  # it is gone with its last connection
        self.backend = ReferenceBackend(replace(SMALL, database_url=f"sqlite+aiosqlite:///{name}&uri=true"))
        await self.backend.start()
        return self

    async def __aexit__(self, *error):
        await self.backend.aclose()
        self.kept.close()

    async def handle(self, user):
        """A request that sends, stores and reads, and a late task of it that still has its emitter."""
        async with self.backend.connect(user.id) as inbox:
            async with self.backend.request(user.id) as request:
                late = request._lease
                await request.emit("agent_thinking", {"about": user.secret("thought")})
                async with request.session() as session:
                    await session.save(user.secret("note"))
                    notes = list(await session.load())
                whose = request.context.user_id
            await asyncio.sleep(0)
            with contextlib.suppress(RuntimeError):
                late.emit("agent_completed", {"by": user.id})
            return {"notes": notes, "whose": whose, "events": [await inbox.receive() for _ in range(inbox.pending())]}


@pytest.fixture(autouse=True)
def quiet_pool(monkeypatch):
    """Who is cancelled costs a connection, which is told each time."""
    pool = logging.getLogger("sqlalchemy.pool")
    monkeypatch.setattr(pool, "disabled", True)


def explored(explore, users, **options):
    findings, done = explore(
        Case("Chats", Chats), users=users, random_runs=0, inline_threads=True, **{"seconds": 600, **options}
    )
    assert not any("not fully replayable" in note for note in done.notes), "nothing came from outside"
    return findings, done


def test_two_users_of_the_reference_backend_are_explored_to_the_end(explore):
    """Each order with one deviation, and nothing is found."""
    findings, done = explored(explore, 2)
    assert findings == []
    assert done.exhausted.startswith("all schedules with ≤ 1 deviation, 2 users, ")


@pytest.mark.soak
def test_three_users_of_the_reference_backend_are_explored_to_the_end(explore):
    """Each order with one deviation, and nothing is found."""
    findings, done = explored(explore, 3)
    assert findings == []
    assert done.exhausted.startswith("all schedules with ≤ 1 deviation, 3 users, ")


def no_lease_check(monkeypatch):
    """Who has returned an emitter may go on to use it."""

    def emit(self, kind, data):
        self._emitter.sent += 1
        self._pool._dispatch(self.user_id, {**data, "kind": kind, "sequence": self._emitter.sent})

    monkeypatch.setattr(Lease, "emit", emit)


def no_reset_on_acquire(monkeypatch):
    """An emitter stays with whoever had it first."""
    owners, acquire = {}, EmitterPool.acquire

    async def kept(self, user_id):
        lease = await acquire(self, user_id)
        lease.user_id = owners.setdefault(lease._emitter, user_id)
        return lease

    monkeypatch.setattr(EmitterPool, "acquire", kept)


def no_context_of_its_own(monkeypatch):
    """The context of the latest request is everybody's."""
    latest = []
    shared = property(lambda self: latest[-1], lambda self, context: latest.append(context))
    monkeypatch.setattr(factory.RequestScope, "context", shared)


def no_user_binding(monkeypatch):
    """A session reads whatever there is."""

    async def load(self):
        session = self._session or await self._open()
        texts = (await session.scalars(select(Note.text).order_by(Note.id))).all()
        await session.rollback()
        return texts

    monkeypatch.setattr(UserSession, "load", load)


@pytest.mark.parametrize("switch", [no_lease_check, no_reset_on_acquire, no_context_of_its_own, no_user_binding])
def test_what_keeps_users_apart_is_missed_when_it_is_switched_off(switch, explore, monkeypatch):
    """Each by itself."""
    switch(monkeypatch)
    findings, _ = explored(explore, 3)
    assert findings
