"""What is known of pools of some libraries: which methods of their objects are use, and what is left in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from pytest_isolation.backend import Leasing
from pytest_isolation.targets import redis
from pytest_isolation.targets.connection_looks import LookAsync, LookSync
from pytest_isolation.users.lendings import Lending, Lendings

Own = Callable[[Any], Any]
LIBRARIES = frozenset({"asyncpg", "psycopg_pool", "redis", "valkey"})


@dataclass(frozen=True, slots=True)
class Terms:
    """How a pool lends.

    Attributes:
        of: the object in what it hands out; None is that itself.
        dirt: what an object still holds of an earlier borrower, asked when it is lent.
        uses: methods of what it hands out that only the borrower may call.
        is_lease: what it hands out may be given back any number of times, and counts once.
        left: what is left in an object when it comes back.
        methods: others for a class of objects, so that this can be known.
    """

    of: Own | None = None
    dirt: Callable[[Any], str] | None = None
    uses: Sequence[str] = ()
    is_lease: bool = False
    left: Callable[[Any], str] | None = None
    methods: Callable[[type], Mapping[str, Callable[..., Any]]] | None = None


def terms_of(pool: Any, library: str, terms: Terms) -> Terms:
    """What is known, where nobody says something else.

    Args:
        pool: lends.
        library: where its class comes from.
        terms: what the test says.
    """
    if library == "asyncpg":  # its proxies refuse to be used after they were returned
        return replace(terms, of=_driver_of, is_lease=True)
    if library == "psycopg_pool":
        return replace(terms, uses=terms.uses or ("execute", "cursor", "commit", "rollback", "transaction"))
    if library in ("redis", "valkey"):
        owed: redis.Owed = WeakKeyDictionary()
        return replace(
            terms,
            uses=terms.uses or ("send_command", "read_response"),
            left=partial(redis.unread, owed),
            methods=partial(redis.counting, owed=owed),
        )
    if isinstance(pool, Leasing) and terms.of is None:
        return Terms(pool.thing_of, terms.dirt or pool.dirt_of, terms.uses or pool.uses)
    return terms


def look_of(
    pool: Any, library: str, lendings: Lendings, lending: Lending, settings: Sequence[str]
) -> LookAsync | LookSync | None:
    """What looks at the connections of a pool of asyncpg or psycopg; None where there is nothing to look at.

    Args:
        pool: lends.
        library: where its class comes from.
        lendings: of the test.
        lending: the record of the pool.
        settings: custom settings.
    """
    if library == "asyncpg" and pool._setup is None:  # what that sets at each loan cannot be told from what was left
        return LookAsync(lendings, lending, pool, settings)
    if library == "psycopg_pool":
        kind = LookAsync if "Async" in type(pool).__name__ else LookSync
        return kind(lendings, lending, pool, settings)
    return None


def _driver_of(proxy: Any) -> Any:
    """The connection in what a pool of asyncpg hands out; None once it was given back, which may be done twice."""
    return proxy._con
