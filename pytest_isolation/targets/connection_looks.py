"""Looks at the connections that a pool of asyncpg or psycopg lends without SQLAlchemy, and at those that lie in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from pytest_isolation.targets.connection_state import (
    Question,
    State,
    accuse,
    left_in,
    read_with_asyncpg,
    read_with_psycopg,
    read_with_psycopg_async,
)
from pytest_isolation.targets.hearing import hear_asyncpg, hear_psycopg
from pytest_isolation.targets.statements import names_set, takes_role
from pytest_isolation.users.at_work import asking
from pytest_isolation.users.lendings import Lending, Lendings

# A worker of the pool puts a connection back.
_STEPS, _STEP_S = 20, 0.001


class Look:
    """What is common to all of them.

    Args:
        lendings: of the test.
        lending: the record of the pool.
        pool: lends the connections.
        names: of custom settings.
    """

    def __init__(self, lendings: Lendings, lending: Lending, pool: Any, names: Sequence[str]) -> None:
        self._lendings = lendings
        self._lending = lending
        self._pool = pool
        self._names = dict.fromkeys(names)
        self._clean: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()
        self._scenes: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._undo: list[Callable[[], None]] = []
        self._fresh: State | None = None
        self._is_late = lendings.scenes > 1

    def close(self) -> None:
        """Hear no more."""
        while self._undo:
            self._undo.pop()()

    def _asked(self, driver: Any, at_end: bool) -> Question:
        return Question([*self._names], thorough=at_end or driver not in self._clean)

    def _hear(self, statement: str | None, parameters: Any) -> None:
        if statement is not None:
            self._names.update(dict.fromkeys(names_set(statement, parameters)))
            self._lending.takes_roles |= takes_role(statement)

    def _judge(self, driver: Any, state: State, at_end: bool) -> None:
        state = left_in(self._lending, state)
        if driver not in self._clean:
            self._clean[driver] = dict(state if self._fresh is None else self._fresh)
            hear = hear_psycopg if hasattr(driver, "pgconn") else hear_asyncpg
            self._undo.append(hear(driver, self._hear))
        clean = self._clean[driver]
        accuse(self._lendings, self._lending, driver, clean, state, given=not at_end, asked_for_all=at_end)
        if not at_end:
            self._scenes[driver] = self._lendings.scene

    def _used_here(self) -> set[int]:
        """Those that were lent in this scene and are not any more."""
        scenes = [*self._scenes.items()]
        return {id(one) for one, scene in scenes if scene == self._lendings.scene and not self._lending.is_lent(one)}


class LookAsync(Look):
    """Looks at each connection before it is lent, and at the end of a scene; at one of asyncpg behind its proxy."""

    def __init__(self, lendings: Lendings, lending: Lending, pool: Any, names: Sequence[str]) -> None:
        super().__init__(lendings, lending, pool, names)
        self._is_asyncpg = not hasattr(pool, "getconn")
        self._acquire: Callable[[], Any] = partial(pool._acquire, None) if self._is_asyncpg else pool.getconn
        self._release = pool.release if self._is_asyncpg else pool.putconn
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, handle: Any, at_end: bool = False) -> None:
        """Look, and give the connection back if that is broken off."""
        driver = handle._con if self._is_asyncpg else handle
        try:
            if self._is_late and self._fresh is None:
                await self._look_at_a_new_one()
            state = await self._read(driver, self._asked(driver, at_end))
        except BaseException:
            await self._release(handle)
            raise
        self._loop = asyncio.get_running_loop()
        self._judge(driver, state, at_end)

    async def _read(self, driver: Any, asked: Question) -> State:
        read = read_with_asyncpg if self._is_asyncpg else read_with_psycopg_async
        return await asking(read(driver, asked))

    async def _look_at_a_new_one(self) -> None:
        """Users had this pool's connections before it was watched: see how one is that nobody has had."""
        connect = self._pool._get_new_connection if self._is_asyncpg else self._pool._connect
        new = await asking(connect())
        try:
            self._fresh = left_in(self._lending, await self._read(new, Question([*self._names], thorough=True)))
        finally:
            await new.close()

    async def look_around(self) -> None:
        """Look at those that lie in the pool."""
        missing, taken = self._used_here(), []
        if self._loop is not asyncio.get_running_loop():
            return
        try:
            for _ in range(_STEPS):
                while missing and self._idle > 0:
                    handle = await self._acquire()
                    taken.append(handle)
                    driver = handle._con if self._is_asyncpg else handle
                    if id(driver) in missing:
                        missing.discard(id(driver))
                        await self(handle, at_end=True)
                if not missing:
                    return
                await asyncio.sleep(_STEP_S)
        finally:
            for handle in taken:
                await self._release(handle)

    @property
    def _idle(self) -> int:
        return int(self._pool.get_idle_size() if self._is_asyncpg else self._pool.get_stats()["pool_available"])


class LookSync(Look):
    """The same, without an event loop."""

    def __init__(self, lendings: Lendings, lending: Lending, pool: Any, names: Sequence[str]) -> None:
        super().__init__(lendings, lending, pool, names)
        self._acquire, self._release = pool.getconn, pool.putconn

    def __call__(self, driver: Any, at_end: bool = False) -> None:
        """Look, and give the connection back if that is broken off."""
        try:
            if self._is_late and self._fresh is None:
                with self._pool._connect() as new:
                    state = read_with_psycopg(new, Question([*self._names], thorough=True))
                    self._fresh = left_in(self._lending, state)
            state = read_with_psycopg(driver, self._asked(driver, at_end))
        except BaseException:
            self._release(driver)
            raise
        self._judge(driver, state, at_end)

    def look_around(self) -> None:
        """Look at those that lie in the pool."""
        missing, taken = self._used_here(), []
        try:
            for _ in range(_STEPS):
                while missing and self._pool.get_stats()["pool_available"] > 0:
                    taken.append(self._acquire())
                    if id(taken[-1]) in missing:
                        missing.discard(id(taken[-1]))
                        self(taken[-1], at_end=True)
                if not missing:
                    return
                time.sleep(_STEP_S)
        finally:
            for driver in taken:
                self._release(driver)
