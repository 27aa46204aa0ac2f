"""Knows whose each session of SQLAlchemy is: what is in its identity map is handed out without asking the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from pytest_isolation.model import Lapse, Mishap
from pytest_isolation.users.lendings import Lendings

# AsyncSession and scoped sessions come to these in the end.
_USES = (
    *("get", "get_one", "execute", "scalar", "scalars", "query", "connection", "begin", "begin_nested", "flush"),
    *("add", "add_all", "merge", "delete", "refresh", "commit", "rollback", "merge_all", "delete_all"),
    *("bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"),
)
_FORGETS = ("close", "reset", "invalidate")


@contextmanager
def watch_sessions(lendings: Lendings) -> Iterator[None]:
    """Know whose each session is, until the block ends. One that was closed may be used anew, by anybody.

    Args:
        lendings: of the test.
    """
    from sqlalchemy.orm import Session

    owners: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
    told: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()

    def use(session: Any) -> None:
        number = lendings.now().number
        if number is None or not lendings.scene:
            return
        owner = owners.setdefault(session, number)
        if owner != number and number not in told.setdefault(session, set()):
            told[session].add(number)
            lendings.tell(
                Mishap(Lapse.SHARED_SESSION, "sessions of SQLAlchemy", f"the {type(session).__name__}", number, owner)
            )

    def telling(method: Callable[..., Any], forgets: bool) -> Callable[..., Any]:
        def tell(self: Any, *args: Any, **options: Any) -> Any:
            if forgets:
                owners.pop(self, None)
            else:
                use(self)
            return method(self, *args, **options)

        return tell

    before = {what: vars(Session)[what] for what in (*_USES, *_FORGETS) if what in vars(Session)}
    for what, method in before.items():
        setattr(Session, what, telling(method, forgets=what in _FORGETS))
    try:
        yield
    finally:
        for what, method in before.items():
            setattr(Session, what, method)
