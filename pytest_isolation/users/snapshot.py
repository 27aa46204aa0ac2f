"""What somebody saw, as plain values: a copy that nobody else can change afterwards.

An observation is judged after the fact, when the object that was handed over may already belong to somebody else.
So it is copied at once into None, bool, int, float, str, bytes, dict, list and ``Bag``.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import io
import pathlib
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any

from pytest_isolation.errors import MisuseError

_ATOMS = (type(None), bool, int, float, str, bytes)
_ATOM_TYPES, _KEY_TYPES = frozenset(_ATOMS), frozenset({str})
_AS_TEXT = (decimal.Decimal, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, pathlib.PurePath, complex)
# Of a subclass only the value is kept, whatever its own __str__ says.
_PLAIN: tuple[tuple[Any, Callable[[Any], object]], ...] = (
    (enum.Enum, lambda value: snapshot(value.value)),
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, lambda value: bytes(memoryview(value))),
    (bytearray | memoryview, bytes),
    (io.BytesIO | io.StringIO, lambda value: value.getvalue()),
    (_AS_TEXT, str),
)
_CONTAINERS = (Mapping, AbstractSet, list, tuple, deque)
_DEEPEST = 64


class Bag(list[object]):
    """Values whose order means nothing."""


def snapshot(value: object) -> object:
    """Copy a value into plain ones.

    Mappings, sequences, sets, dataclasses, named tuples, attrs classes, pydantic models, msgspec structs, ORM rows
    and objects, HTTP responses and exceptions (arguments, notes, causes) are taken apart. Of any other object its
    text is taken and its public attributes as far as they are plain data; what hangs on the objects behind it did
    not arrive. What raises when it is looked at, or is too deep to be printed, is told by its type, and why.

    Args:
        value: anything that was seen.

    Raises:
        MisuseError: it cannot be looked at without being used up: a coroutine or an iterator.
    """
    if type(value) in _ATOM_TYPES:
        return value
    try:
        return _copied(value, 0)
    except _NotPlainError:
        pass  # what is said of the rest has nothing to do with it
    return _Copier().copy(value)


def unordered(value: object) -> object:
    """A snapshot in which the order of lists means nothing."""
    if isinstance(value, list):
        return Bag(unordered(part) for part in value)
    if isinstance(value, dict):
        return {key: unordered(part) for key, part in value.items()}
    return value


class _NotPlainError(Exception):
    """There is something in it that has to be taken apart."""


def _copied(value: Any, depth: int) -> Any:
    """Copy what JSON can say, which is most of what is seen, five times as fast."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if depth == _DEEPEST:
        raise _NotPlainError
    if kind is list:
        kinds = {*map(type, value)}
        if kinds <= _ATOM_TYPES:
            return value.copy()
        if kinds == {dict} and _are_flat(value):
            return [*map(dict.copy, value)]
        return [part if type(part) in _ATOMS else _copied(part, depth + 1) for part in value]
    if kind is dict and _KEY_TYPES.issuperset(map(type, value)):
        if _ATOM_TYPES.issuperset(map(type, value.values())):
            return value.copy()
        return {key: part if type(part) in _ATOMS else _copied(part, depth + 1) for key, part in value.items()}
    raise _NotPlainError


def _are_flat(rows: list[dict[Any, Any]]) -> bool:
    """Mappings of texts to atoms, as a table in JSON; none of the loops is in Python."""
    return _KEY_TYPES.issuperset(map(type, chain.from_iterable(rows))) and _ATOM_TYPES.issuperset(
        map(type, chain.from_iterable(map(dict.values, rows)))
    )


class _Copier:
    __slots__ = ("_in_error", "_in_stranger", "_path")

    def __init__(self) -> None:
        self._path: list[int] = []
        self._in_error = self._in_stranger = False

    def copy(self, value: object) -> object:
        if type(value) in _ATOMS:
            return value
        if id(value) in self._path:
            return "<seen above>"
        if len(self._path) >= _DEEPEST:
            return _text_of(value, f"cut, {_DEEPEST} levels down")
        self._path.append(id(value))
        try:
            return self._take_apart(value)
        except MisuseError:
            if not self._in_error:
                raise
            return _what(value)  # whoever raised an error with an iterator in it did nothing wrong
        except Exception as broken:  # a proxy of nothing, for example: it may raise whatever it likes
            return self._untouchable(value, broken)
        finally:
            self._path.pop()

    def _untouchable(self, value: object, broken: Exception) -> object:
        """What can be had of an object that raises when it is asked for something: its data, or what it is."""
        try:
            return self._stranger(value)
        except Exception:  # it cannot even be asked for its data
            return _text_of(value, f"{type(broken).__name__} while it was looked at")

    def _take_apart(self, value: object) -> object:
        home = type(value).__module__
        if home == "unittest.mock":  # it claims to be and to have whatever it is asked for
            return self._stranger(value)
        if home == "werkzeug.local" and hasattr(type(value), "_get_current_object"):  # its class has every method
            return self.copy(object.__getattribute__(value, "_get_current_object")())
        for kind, plain in _PLAIN:
            if isinstance(value, kind):
                return plain(value)
        if (parts := _parts(value)) is not None:
            return self._error(parts) if isinstance(value, BaseException) else self._named(parts)
        if isinstance(value, AbstractSet | Bag):
            return Bag(self.copy(part) for part in value)
        if isinstance(value, Sequence | deque):
            return [self.copy(part) for part in value]
        if inspect.isawaitable(value) or inspect.isasyncgen(value) or isinstance(value, Iterator):
            if inspect.iscoroutine(value) and not self._in_error:
                value.close()  # or Python warns of it a second time
            raise MisuseError(
                f"observe() got {_what(value)}: it has not run, so nothing of it can be seen yet. "
                "Await it or collect it first: user.observe(await …) or user.observe(list(…))"
            )
        if isinstance(value, Iterable) and not self._in_error and not isinstance(value, type):
            return self._collection(value)
        return self._stranger(value)

    def _collection(self, value: Iterable[object]) -> object:
        """What can be gone through again and again, and says how much there is: a page of results, an array."""
        if isinstance(value, Sized):
            return [self.copy(part) for part in value]
        raise MisuseError(
            f"observe() got {_what(value)}, which does not say how long it is, so it may be used up by looking: "
            "hand over user.observe(list(…))"
        )

    def _error(self, parts: Iterable[tuple[object, object]]) -> object:
        before, self._in_error = self._in_error, True
        try:
            return self._named(parts)
        finally:
            self._in_error = before

    def _named(self, parts: Iterable[tuple[object, object]]) -> dict[str, object]:
        named: dict[str, object] = {}
        for key, part in parts:
            name = _key(key)
            while name in named:  # 1 and "1" are two keys, and both were seen
                name += "'"
            named[name] = self.copy(part)
        return named

    def _stranger(self, value: object) -> object:
        if self._in_stranger:
            return _text_of(value)
        self._in_stranger = True
        try:
            data = self._named((name, part) for name, part in _attributes(value) if _is_public_data(name, part))
        finally:
            self._in_stranger = False
        text = _text_of(value)
        return {"": text, **data} if data else text


def _parts(value: object) -> Iterable[tuple[object, object]] | None:
    """Names and values of whatever is made of named parts, None for everything else."""
    kind = type(value)
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, type):
        return None
    if isinstance(value, BaseException):
        return _exception(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    for names in (
        [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else None,
        [a.name for a in getattr(kind, "__attrs_attrs__", ())] or None,
        getattr(kind, "__struct_fields__", None),  # msgspec
    ):
        if names is not None:
            return [(name, getattr(value, name, None)) for name in names]
    if isinstance(mapping := getattr(value, "_mapping", None), Mapping):  # a row of SQLAlchemy
        return mapping.items()
    if hasattr(kind, "__pydantic_fields__"):
        return _model(value)
    if hasattr(kind, "__mapper__"):
        # What is loaded, not what a descriptor would fetch now.
        return [(name, part) for name, part in vars(value).items() if not name.startswith("_")]
    if names := [*getattr(kind, "__fields__", ())]:  # pydantic 1
        return [(name, getattr(value, name, None)) for name in names]
    if hasattr(value, "headers") and (hasattr(value, "status_code") or hasattr(value, "status")):
        return _response(value)
    return None


def _model(model: object) -> list[tuple[str, object]]:
    """A model of pydantic 2 as it is sent: its fields, what else it was given, and what it computes."""
    parts = {name: part for name, part in vars(model).items() if not name.startswith("_")}
    parts |= getattr(model, "__pydantic_extra__", None) or {}
    decorators = getattr(type(model), "__pydantic_decorators__", None)
    computed = getattr(decorators, "computed_fields", {})
    return [*parts.items(), *((name, _computed(model, name)) for name in computed)]


def _computed(model: object, name: str) -> object:
    try:
        return getattr(model, name)
    except Exception as broken:  # whoever sends the model will meet it; who looks at it here has seen the rest
        return f"<{type(broken).__name__} while it was computed>"


def _exception(error: BaseException) -> list[tuple[str, object]]:
    parts: list[tuple[str, object]] = [("type", type(error).__qualname__), ("text", _text(error)), ("args", error.args)]
    parts += [(name, part) for name, part in vars(error).items() if name == "__notes__" or _is_public_data(name, part)]
    if isinstance(error, BaseExceptionGroup):
        parts.append(("exceptions", error.exceptions))
    if error.__cause__ is not None:
        parts.append(("cause", error.__cause__))
    elif error.__context__ is not None:
        parts.append(("context", error.__context__))
    return parts


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # an error that cannot be printed is still an error that was seen
        return f"<{type(broken).__name__} while it was printed>"


def _text_of(value: object, otherwise: str = "") -> str:
    """The text of any object.

    Args:
        value: the object.
        otherwise: why there is none, if its own text raises.
    """
    try:
        return repr(value)
    except Exception as broken:  # one that cannot be printed is still one that was seen
        return _shown_by_type(value, otherwise or f"{type(broken).__name__} while it was printed")


def _shown_by_type(value: object, why: str) -> str:
    return f"<{type(value).__name__}: {why}>"


def _response(response: object) -> list[tuple[str, object]]:
    headers = getattr(response, "headers", {})
    status = getattr(response, "status_code", None) or getattr(response, "status", None)
    return [("status", status), ("headers", _headers(headers.items())), ("body", _body(response))]


def _headers(pairs: Iterable[tuple[object, object]]) -> dict[str, object]:
    """Headers by name, which has no case; of one that is repeated all values."""
    headers: dict[str, object] = {}
    for key, value in pairs:
        name = _key(key).lower()
        if name not in headers:
            headers[name] = value
        elif isinstance(before := headers[name], Bag):
            before.append(value)
        else:
            headers[name] = Bag([before, value])
    return headers


def _body(response: object) -> object:
    """The body of a response, None if it has none.

    Raises:
        MisuseError: it has not been read yet, or only a method can read it.
    """
    has_none = False
    for name in ("content", "body", "text"):
        try:
            body = getattr(response, name)
        except (AttributeError, RuntimeError):  # httpx and requests raise the latter while it has not been read
            continue
        if isinstance(body, bytes | str | bytearray | memoryview):
            return body
        has_none = has_none or body is None
    if has_none:
        return None
    raise MisuseError(
        f"observe() got a {type(response).__name__} whose body has not been read, so nothing in it could be seen. "
        "Read it first, for example: user.observe(await response.text()) or, with httpx, await response.aread()"
    )


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    yield from getattr(value, "__dict__", {}).items()
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield name, getattr(value, name)


def _is_public_data(name: str, value: object) -> bool:
    if name.startswith("_") or isinstance(value, type):
        return False
    return isinstance(value, (*_ATOMS, *_AS_TEXT, *_CONTAINERS, bytearray, enum.Enum)) or dataclasses.is_dataclass(
        value
    )


def _key(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
    try:
        return str(key)
    except Exception as broken:  # as in _text_of
        return _shown_by_type(key, f"{type(broken).__name__} while it was printed")


def _what(value: object) -> str:
    name = getattr(value, "__qualname__", None)
    if name:
        return f"the {type(value).__name__} {name}()"
    return f"an iterator ({type(value).__name__})" if isinstance(value, Iterator) else f"a {type(value).__name__}"
