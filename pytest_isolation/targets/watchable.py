"""What ``isolation_watch`` is told, refused where it is wrong before anything is watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_isolation.errors import MisuseError
from pytest_isolation.targets.ready_made import Own


@dataclass(frozen=True, slots=True)
class Asked:
    """What a test says of a pool.

    Attributes:
        name: of the pool in reports.
        limit: how many objects it may lend at once.
        lend: the method that lends.
        back: the method that takes back.
        of: the pooled object in what the pool hands out.
        dirt: what an object still holds of an earlier borrower.
        uses: methods of the objects that only their borrower may call.
        settings: custom settings of a database.
    """

    name: str | None
    limit: int | None
    lend: str | None
    back: str | None
    of: Own | None
    dirt: Callable[[Any], str] | None
    uses: Sequence[str]
    settings: Sequence[str]


def refuse_unwatchable(pool: object, asked: Asked) -> None:
    """Refuse a class, and values that would fail in a user's run, or be of no effect.

    Args:
        pool: what is to be watched.
        asked: what is said of it.

    Raises:
        MisuseError: what is wrong, and the right form.
    """
    if isinstance(pool, type):
        raise MisuseError(
            f"isolation_watch({pool.__name__}) is given a class: it takes the pool itself, as in "
            f"isolation_watch({pool.__name__}(…))"
        )
    refuse_wrong_record("isolation_watch(pool, …)", asked.name, asked.limit)
    _refuse_methods(pool, asked.lend, asked.back)
    if asked.of is not None and not callable(asked.of):
        raise _wrong("of", asked.of, "a function that finds the object in a lease", "of=lambda lease: lease.buffer")
    if asked.dirt is not None and not callable(asked.dirt):
        said = "a function that says what an object still holds"
        raise _wrong("dirt", asked.dirt, said, "dirt=lambda buffer: buffer.text")
    if not _are_texts(asked.uses):
        raise _wrong("uses", asked.uses, "a list of names of methods", 'uses=["write"]')
    if not _are_texts(asked.settings):
        raise _wrong("settings", asked.settings, "a list of names of settings", 'settings=["app.user_id"]')


def refuse_wrong_record(where: str, name: object, limit: object) -> None:
    """Refuse a name or a limit of a pool that is none.

    Args:
        where: it was said.
        name: of the pool; None is by its class.
        limit: how many objects it may lend at once; None is any number.

    Raises:
        MisuseError: it is none.
    """
    if name is not None and (not isinstance(name, str) or not name):
        raise MisuseError(f"{where} with name={name!r}: a pool is named by a text, as in name='buffers'")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise MisuseError(
            f"{where} with limit={limit!r}: it takes how many objects may be lent at once, a whole number ≥ 1, as in "
            "limit=20"
        )


def method_of(kind: type, name: str) -> Any:
    """A method that only the borrower may call.

    Args:
        kind: what is lent.
        name: of the method.

    Raises:
        MisuseError: there is none of that name.
    """
    method = getattr(kind, name, None)
    if not callable(method):
        raise MisuseError(
            f"isolation_watch(pool, uses=[{name!r}]): what the pool lends is a {kind.__name__}, which has no method "
            f"{name!r}"
        )
    return method


def _refuse_methods(pool: object, lend: object, back: object) -> None:
    said = {keyword: name for keyword, name in (("lend", lend), ("back", back)) if name is not None}
    for keyword, name in said.items():
        if not isinstance(name, str):
            raise _wrong(keyword, name, "the name of a method", _PAIR)
        if not callable(getattr(getattr(pool, "connection_pool", pool), name, None)):
            raise MisuseError(
                f"isolation_watch(pool, {keyword}={name!r}): a {type(pool).__name__} has no method {name!r}; it takes "
                f"the methods of the pool that lend and take back, {_PAIR}"
            )
    if len(said) == 1:
        raise MisuseError(f"isolation_watch(pool, {next(iter(said))}=…) says half of it: it takes both, {_PAIR}")


_PAIR = "as in lend='take', back='put'"


def _are_texts(names: object) -> bool:
    return (
        isinstance(names, Sequence | set | frozenset)
        and not isinstance(names, str | bytes)
        and all(isinstance(name, str) and name for name in names)
    )


def _wrong(keyword: str, value: object, takes: str, form: str) -> MisuseError:
    form = form if form.startswith("as in") else f"as in {form}"
    return MisuseError(f"isolation_watch(pool, {keyword}={value!r:.80}): it takes {takes}, {form}")
