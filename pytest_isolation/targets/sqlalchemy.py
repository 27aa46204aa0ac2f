"""Watches an engine of SQLAlchemy: who has which connection, and what is left in it.

A connection is looked at when it is lent, after it has been reset in whatever way, and again when a scene has ended;
whatever the application itself does when it is lent (a ``checkout`` listener that sets a role for each borrower) is not
taken for somebody's leavings. Where every statement since the last look was heard and left nothing, nobody asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

from pytest_isolation.model import Lapse, Mishap
from pytest_isolation.targets.connection_state import OPEN, READERS, Question, State, accuse, is_open, left_in
from pytest_isolation.targets.hearing import Ears
from pytest_isolation.targets.noted import is_note, noted
from pytest_isolation.targets.statements import is_harmless, names_set, of_sequences, takes_role
from pytest_isolation.users.at_work import asking
from pytest_isolation.users.lendings import Holder, Lending, Lendings


@contextmanager
def watch_engine(
    engine: Any, lendings: Lendings, name: str | None = None, settings: Sequence[str] = ()
) -> Iterator[None]:
    """Watch an engine, sync or async, until the block ends.

    Args:
        engine: of SQLAlchemy.
        lendings: keeps what is lent.
        name: of the engine in reports.
        settings: custom settings that may be set where nobody hears it.
    """
    from sqlalchemy import event

    engine = getattr(engine, "sync_engine", engine)
    dialect = engine.dialect
    lending = lendings.watch(name or f"engine of {dialect.name} ({dialect.driver})", noun="connection")
    lending.has_committed = False
    watcher = _Watcher(lending, lendings, engine, settings)

    def committed(_connection: Any) -> None:
        lending.has_committed = True

    listeners: list[tuple[Any, str, Callable[..., Any], bool]] = [
        (engine, "checkout", watcher.before, True),
        (engine, "checkout", watcher.after, False),
        (engine, "connect", watcher.connected, False),
        (engine, "reset", watcher.reset, True),
        (engine, "checkin", watcher.returned, True),
        (engine, "detach", watcher.returned, True),
        (engine, "before_cursor_execute", watcher.executes, False),
        (engine, "commit", committed, False),
    ]
    for target, what, listener, is_first in listeners:
        event.listen(target, what, listener, insert=is_first)
    looks: list[Callable[[], Any]] = lendings.at_end_async if dialect.is_async else lendings.at_end
    look = watcher.look_around_async if dialect.is_async else watcher.look_around
    looks.append(look)
    try:
        yield
    finally:
        looks.remove(look)
        for target, what, listener, _ in listeners:
            event.remove(target, what, listener)
        watcher.close()


@dataclass(slots=True, eq=False)
class _Seen:
    """What is known of a connection.

    Attributes:
        clean: what was in it before the first user had it, and what has been reported; None until then.
        state: what was in it when it was looked at last; None is not known.
        sound: that, if it is clean.
        is_heard: every statement is heard.
        suspect: something may have been left since then.
        fairy: what its borrower holds.
        borrower: who has it.
        scene: in which it was lent.
        loop: in which; None without one.
        moved: whose was the last number of a sequence.
        own_number: there may be one of the borrower's own.
    """

    clean: dict[str, str] | None = None
    state: State | None = None
    sound: State | None = None
    is_heard: bool = False
    suspect: bool = True
    fairy: ref[Any] | None = None
    borrower: Holder = field(default_factory=lambda: Holder(None, 0))
    scene: int = 0
    loop: asyncio.AbstractEventLoop | None = None
    moved: Holder | None = None
    own_number: bool = False


class _Watcher:
    """Hears what becomes of the connections of an engine.

    Args:
        lending: the record of its pool.
        lendings: of the test.
        engine: the engine.
        settings: custom settings.
    """

    def __init__(self, lending: Lending, lendings: Lendings, engine: Any, settings: Sequence[str]) -> None:
        self._lending = lending
        self._lendings = lendings
        self._engine = engine
        driver = engine.dialect.driver
        is_async = engine.dialect.is_async and driver == "psycopg"
        self._read = READERS.get(f"{driver}_async" if is_async else driver)
        self._ears = Ears(engine.dialect)
        self._names = dict.fromkeys(settings)
        self._seen: WeakKeyDictionary[Any, _Seen] = WeakKeyDictionary()
        self._own: set[str] = set()
        self._fresh: dict[str, str] | None = None
        self._is_ending = self._gave_up = False
        lending.describe = self._describe

    def close(self) -> None:
        """Hear no more."""
        self._ears.close()

    def connected(self, connection: Any, entry: Any) -> None:
        """A connection is new."""
        self._seen[entry] = seen = _Seen()
        seen.is_heard = self._listen(connection, entry, seen)

    def before(self, connection: Any, entry: Any, _fairy: Any) -> None:
        """A connection is about to be lent; the application's listeners come next."""
        seen = self._seen.get(entry)
        if seen is None:  # it was opened before anybody watched, and used maybe
            seen = self._seen[entry] = _Seen(self._state_of_a_new_one())
            seen.is_heard = self._listen(connection, entry, seen)
        is_new = seen.clean is None
        if is_new or self._is_ending or seen.suspect or not seen.is_heard or seen.state is None:
            seen.state = self._look(connection, entry, Question([*self._names], thorough=is_new or self._is_ending))
            seen.suspect = False
        else:
            seen.state = self._look_at_hand(connection, entry, seen.state)
        if is_new:
            seen.clean = dict(seen.state or ())

    def after(self, connection: Any, entry: Any, fairy: Any) -> None:
        """It is lent."""
        seen = self._seen[entry]
        before, asked_for_all = seen.state, self._is_ending
        if before is not None and self._listeners_besides:
            within = OPEN not in before
            if seen.suspect or not seen.is_heard:
                seen.state = self._look(connection, entry, Question([*self._names], within, self._is_ending))
                seen.suspect = is_open(_driver(connection))  # what is set in it may be taken back
            else:
                seen.state = self._look_at_hand(connection, entry, before, within)
            state = seen.state
            changed = [] if state is None else [k for k in {*state, *before} if state.get(k) != before.get(k)]
            self._own.update(changed)
        assert seen.clean is not None
        if seen.state is not None and seen.state is not seen.sound:
            accuse(
                *(self._lendings, self._lending, entry, seen.clean, seen.state, self._own),
                given=not self._is_ending,
                asked_for_all=asked_for_all,
            )
            seen.sound = seen.state if seen.state == seen.clean else None
        if not self._is_ending:
            self._lent(seen, entry, fairy)

    def _lent(self, seen: _Seen, entry: Any, fairy: Any) -> None:
        seen.fairy, seen.scene, seen.borrower, seen.own_number = (
            ref(fairy),
            self._lendings.scene,
            self._lending.now(),
            False,
        )
        seen.loop = None
        if self._engine.dialect.is_async:
            with suppress(RuntimeError):
                seen.loop = asyncio.get_running_loop()
        self._lending.acquired(entry)

    def reset(self, _connection: Any, entry: Any, _state: Any) -> None:
        """It comes back; if its borrower is gone, nobody has returned it."""
        seen = self._seen.get(entry) if entry is not None else None  # a detached one has none
        if seen is not None and seen.fairy is not None and seen.fairy() is None:
            self._lending.dropped(entry)

    def returned(self, _connection: Any, entry: Any) -> None:
        """It has come back, or was taken out of the pool for good."""
        if entry is not None and self._lending.is_lent(entry):
            self._lending.released(entry)

    def executes(self, connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        """SQLAlchemy is about to execute a statement."""
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            self._lending.has_committed = True
        if self._read is not None:
            self._names.update(dict.fromkeys(names_set(statement, parameters)))
            self._lending.takes_roles |= takes_role(statement)

    def _listen(self, connection: Any, entry: Any, seen: _Seen) -> bool:
        known = ref(entry)

        def hear(statement: str | None, parameters: Any) -> None:
            if statement is None or not is_harmless(statement):
                seen.suspect = True
            if statement is not None:
                self._names.update(dict.fromkeys(names_set(statement, parameters)))
                self._lending.takes_roles |= takes_role(statement)
            self._count(known(), seen, "moves?" if statement is None else of_sequences(statement))

        return self._ears.listen(connection, hear)

    def _count(self, entry: Any, seen: _Seen, what: str) -> None:
        """Know who has drawn a number of a sequence last: who asks for it without having drawn one reads another's."""
        now = seen.borrower
        if what == "forgets":
            seen.moved = None
        elif what == "moves":
            seen.moved, seen.own_number = now, True
        elif what == "moves?" or (seen.suspect and not what):
            seen.own_number = True
        elif what == "reads" and not seen.own_number and seen.moved is not None and seen.moved.scene:
            other, seen.own_number = seen.moved, True
            if other.number != now.number or now.number is None:
                name, since = self._lending.name_of(entry), self._lendings.since(other)
                place = other.place
                mishap = Mishap(Lapse.SEQUENCE, self._lending.name, name, now.number, other.number, "", place, since)
                self._lendings.tell(mishap)

    def _state_of_a_new_one(self) -> dict[str, str]:
        """What is in a connection that nobody has used: it takes one, for a moment."""
        if self._fresh is None:
            entry = self._engine.pool._create_connection()  # its `connect` listeners are called
            try:
                asked = Question([*self._names], thorough=True)
                self._fresh = dict(self._look(entry.dbapi_connection, entry, asked) or ())
            finally:
                entry.close()
        return dict(self._fresh)

    def look_around(self) -> None:
        """Look at the connections that were lent in this scene and lie in the pool: as one who is lent them would."""
        loop = None
        if self._engine.dialect.is_async:
            loop = asyncio.get_running_loop()
        missing = {
            id(entry)
            for entry, seen in [*self._seen.items()]
            if seen.scene == self._lendings.scene and seen.loop is loop and not self._lending.is_lent(entry)
        }
        pool, loans = self._engine.pool, list[Any]()
        self._is_ending = True
        try:
            while missing and not self._gave_up and _has_idle(pool, loans):
                loans.append(pool.connect())
                missing.discard(id(loans[-1]._connection_record))
        except Exception as error:  # of a listener that lends to nobody but a user, or of a server that is gone
            self._gave_up = True
            self._lending.remark = (
                f"{self._lending.name}: what lies in it was not looked at when a scene had ended, because it lends "
                f"nothing to nobody: {type(error).__name__}: {error}"
            )
        finally:
            for loan in loans:
                loan.close()
            self._is_ending = False

    async def look_around_async(self) -> None:
        """The same of an async engine."""
        from sqlalchemy.util import greenlet_spawn

        await greenlet_spawn(self.look_around)

    @property
    def _listeners_besides(self) -> bool:
        return len(list(self._engine.pool.dispatch.checkout)) > 2

    def _look_at_hand(self, connection: Any, entry: Any, last: State | None, within: bool = False) -> State | None:
        """What can be known without asking."""
        if is_open(_driver(connection)) and not within:
            return {**noted(entry), OPEN: ""}
        notes = noted(entry)
        if last is not None and not notes and not any(map(is_note, last)):
            return last
        return {**{what: value for what, value in (last or {}).items() if not is_note(what)}, **notes}

    def _look(self, connection: Any, entry: Any, asked: Question) -> State | None:
        """What is in a connection; None if it has died, of which its borrower is to learn by itself."""
        marked = noted(entry)
        if self._read is None:
            return marked
        driver = _driver(connection)
        try:
            state = self._read(driver, asked)
            state = _awaited(state) if isinstance(state, Awaitable) else state
            return {**marked, **left_in(self._lending, state)}
        except Exception as error:
            if _is_dead(driver):
                return None
            error.add_note("pytest-isolation: it was raised while a connection that is lent was looked at")
            raise

    def _describe(self, entry: Any) -> str:
        """Of a connection that nobody has returned: whether it keeps others from what it has locked."""
        connection = getattr(entry, "dbapi_connection", None)
        is_idle_in_transaction = connection is not None and is_open(_driver(connection))
        return "it is idle in transaction" if is_idle_in_transaction else ""


def _driver(connection: Any) -> Any:
    return getattr(connection, "_connection", connection)  # past what hears of it


def _has_idle(pool: Any, loans: Sequence[Any]) -> bool:
    """A connection lies in the pool, so that to borrow it opens none and waits for nobody."""
    if (lying := getattr(pool, "checkedin", None)) is not None:
        return bool(lying() > 0)
    return type(pool).__name__ == "StaticPool" and not loans


def _is_dead(driver: Any) -> bool:
    closed = getattr(driver, "is_closed", None) or getattr(driver, "closed", False)
    return bool(closed() if callable(closed) else closed)


def _awaited(awaitable: Any) -> Any:
    from sqlalchemy.util import await_only

    return await_only(asking(awaitable))
