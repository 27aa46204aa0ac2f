"""Who makes a request: immutable, and identified by all of its ids.

A context is the same as another only if every id is. Keys made of parts of ids (a user and eight characters of a run)
let two requests collide, and one user's clean-up hit the other's emitter.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from random import getrandbits
from time import time_ns
from types import MappingProxyType
from typing import Any, NoReturn, Self, cast

_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class _Draft:
    """A context that is being made: its attributes can still be set, at a tenth of the price of a way past a guard."""

    __slots__ = ("__weakref__", "_request_id", "_run_id", "_thread_id", "created_ns", "metadata", "user_id")

    user_id: str
    metadata: Mapping[str, Any]
    created_ns: int
    _request_id: str | None
    _run_id: str | None
    _thread_id: str | None


class RequestContext(_Draft):
    """The identity of one request.

    Args:
        user_id: whose request it is.
        thread_id: the conversation it belongs to; None is one of its own.
        run_id: the run of the agent; None is one of its own.
        metadata: what else is known of it.

    Attributes:
        user_id: whose request it is.
        metadata: what else is known of it; a copy, and read-only at every depth.
        created_ns: when it began, nanoseconds since the epoch.

    Raises:
        ValueError: an id is no text, or an empty one.
    """

    __slots__ = ()

    def __new__(
        cls,
        user_id: str,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make a context; from then on it does not change."""
        if not isinstance(user_id, str) or not user_id or user_id.isspace():
            raise ValueError(f"a request has a user: user_id={user_id!r} is none")
        if thread_id is not None or run_id is not None:
            _refuse_empty(thread_id=thread_id, run_id=run_id)
        draft: Any = _Draft()
        draft.user_id = user_id
        draft._thread_id = thread_id
        draft._run_id = run_id
        draft._request_id = None
        draft.metadata = _frozen(metadata) if metadata else _NO_METADATA
        draft.created_ns = time_ns()
        draft.__class__ = cls
        return cast("Self", draft)

    @property
    def request_id(self) -> str:
        """Unique to this request, in this process and in every other; no secret, for it may be guessed."""
        if self._request_id is None:  # drawn when somebody asks: many requests are never asked
            _set_request_id(self, f"{getrandbits(128):032x}")  # the library seeds it anew after a fork
        assert self._request_id is not None
        return self._request_id

    @property
    def thread_id(self) -> str:
        """The conversation it belongs to; one of its own if none was given."""
        return self._thread_id or self.request_id

    @property
    def run_id(self) -> str:
        """The run of the agent; one of its own if none was given."""
        return self._run_id or self.request_id

    @property
    def key(self) -> tuple[str, str, str, str]:
        """All ids: the identity of the request."""
        return self.user_id, self.thread_id, self.run_id, self.request_id

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a request context does not change: {name} stays what it is")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a request context does not change: {name} stays")

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, RequestContext) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<RequestContext {self.request_id} of {self.user_id}>"


_set_request_id = _Draft.__dict__["_request_id"].__set__  # the one way past the guard, for what is drawn late


def _refuse_empty(**ids: object) -> None:
    for name, value in ids.items():
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ValueError(f"the ids of a request are texts: {name}={value!r} is none")


def _frozen(value: Any) -> Any:
    """A copy that nobody can change: a list that two requests share is a way from one user to another."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(part) for key, part in value.items()})
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if isinstance(value, AbstractSet):
        return frozenset(map(_frozen, value))
    if isinstance(value, bytearray):
        return bytes(value)
    return value
