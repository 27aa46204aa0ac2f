"""Who makes a request: immutable, and identified by all of its ids.

A context is the same as another only if every id is. Keys made of parts of ids (a user and eight characters of a run)
let two requests collide, and one user's clean-up hit the other's emitter.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class RequestContext:
    """The identity of one request.

    Attributes:
        user_id: whose request it is.
        thread_id: the conversation it belongs to.
        run_id: the run of the agent.
        request_id: unique to this request.
        metadata: what else is known of it; a copy, and read-only.
        created_ns: when it began, nanoseconds since the epoch.
    """

    __slots__ = ("__weakref__", "created_ns", "metadata", "request_id", "run_id", "thread_id", "user_id")

    user_id: str
    thread_id: str
    run_id: str
    request_id: str
    metadata: Mapping[str, Any]
    created_ns: int

    def __init__(
        self,
        user_id: str,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(user_id, str) or not user_id.strip():
            raise ValueError(f"a request has a user: user_id={user_id!r} is none")
        put = object.__setattr__
        put(self, "user_id", user_id)
        put(self, "request_id", uuid.uuid4().hex)
        put(self, "thread_id", thread_id or self.request_id)
        put(self, "run_id", run_id or self.request_id)
        put(self, "metadata", MappingProxyType(dict(metadata)) if metadata else _NO_METADATA)
        put(self, "created_ns", time.time_ns())

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
