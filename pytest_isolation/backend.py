"""What a backend must offer so that the conformance suite can test it: small, structural, nothing to subclass.

A factory is any callable without arguments that returns an object like ``Backend``. The backend is made before an
event loop runs, so connections, pools and tasks belong into ``start()``, which is awaited in the loop of the test.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from typing import Any, Protocol, cast, runtime_checkable

from pytest_isolation.errors import BackendError


class Context(Protocol):
    """Who makes a request."""

    @property
    def user_id(self) -> str:
        """The user, as given to ``Backend.request``."""

    @property
    def request_id(self) -> str:
        """Unique to this request."""


class Agent(Protocol):
    """Does the work of a request."""

    async def run(self, message: str) -> str:
        """Answer a message of the request's user; what it says must be about that user alone.

        It stores the message for the user, tells the user's inbox about its progress, and may raise.
        """


class Session(Protocol):
    """A database session that belongs to one request."""

    async def ping(self) -> None:
        """One round trip to the database on this session's own connection."""

    async def save(self, text: str) -> None:
        """Store a text of this request's user."""

    async def load(self) -> Sequence[str]:
        """Every text stored for this request's user, oldest first."""


class Request(Protocol):
    """Everything that belongs to one request and ends with it."""

    @property
    def context(self) -> Context:
        """Who asks."""

    async def agent(self, name: str) -> Agent:
        """A new agent of this kind, bound to this request.

        Raises:
            LookupError: there is no such kind.
        """

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to every inbox of this request's user, and to nobody else's."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """A database session bound to this request's user, closed with the block."""


class Timings(Protocol):
    """What a backend times by itself; ``latency.listen_to`` makes samples of it. No backend has to offer it."""

    def listen(self, hear: Callable[[str, float], None] | None) -> None:
        """Call this with the name and the seconds of every operation; None calls nobody any more."""


class Borrowing(Protocol):
    """Is told what becomes of the objects of a pool; ``isolation_watch.recorder("name")`` hands one out.

    Whoever calls it does so in the task, or the thread, of the user whose work it is. It keeps no object alive.
    """

    def acquired(self, thing: object, dirt: str = "") -> None:
        """The pool has lent an object.

        Args:
            thing: the object itself, not what is wrapped around it for one borrower.
            dirt: what is in it of an earlier borrower; empty if it is clean.
        """

    def used(self, thing: object) -> None:
        """Somebody uses an object, whether it is lent or not."""

    def released(self, thing: object) -> None:
        """The pool has taken an object back."""


@runtime_checkable
class Leasing(Protocol):
    """A pool that hands out leases says what they stand for. No pool has to offer it.

    Attributes:
        uses: the methods of a lease that only its borrower may call; one that raises was refused, and is no use.
    """

    uses: Sequence[str]

    def thing_of(self, lease: Any) -> object | None:
        """The object that a lease stands for; None once it was returned, if that may be done any number of times."""

    def dirt_of(self, thing: Any) -> str:
        """What is in an object of an earlier borrower when it is lent; empty if it is clean."""


class Pooled(Protocol):
    """A backend that says what it lends: it is watched wherever users play a scenario. No backend has to offer it."""

    @property
    def pools(self) -> Sequence[object]:
        """Engines of SQLAlchemy, and pools as ``isolation_watch`` takes them, as far as they exist by now."""


class Belongings(Protocol):
    """A backend that says what it makes for one request alone. No backend has to offer it.

    In a scenario that takes ``isolation_backend`` all of it is tracked: it must be gone when the user's run has ended.
    """

    def tell_belongings(self, hear: Callable[[object], None] | None) -> None:
        """Call this with every such object when it is made: a context, a lease, a session; None calls nobody any more.

        It is called in the task of the request, and keeps no object alive.
        """


class Inbox(Protocol):
    """Where a user's events arrive."""

    async def receive(self) -> Mapping[str, Any]:
        """The next event; waits until there is one."""

    def pending(self) -> int:
        """How many events wait to be received."""


class Backend(Protocol):
    """A backend with many users."""

    @property
    def agents(self) -> Sequence[str]:
        """The kinds of agent that every user may run; at least one."""

    async def start(self) -> None:
        """Begin to serve; awaited once, in the event loop of the test, before anything else."""

    async def aclose(self) -> None:
        """Give everything back; awaited once, in the same loop."""

    def request(self, user_id: str) -> AbstractAsyncContextManager[Request]:
        """Open the scope of one request; it is cleaned up when the block ends, whatever happens in it."""

    def connect(self, user_id: str) -> AbstractAsyncContextManager[Inbox]:
        """Let a user listen to its events, as a browser does with a socket, for the time of the block."""


def find_factory(target: str) -> Callable[[], object]:
    """Import ``pkg.mod:factory``.

    Raises:
        BackendError: the module cannot be imported, has no such name, or the name cannot be called.
    """
    module_name, _, path = target.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except ImportError as error:
        missing = error.name or ""
        if missing.split(".")[0] == module_name.split(".")[0]:
            raise BackendError(f"{target!r}: there is no module {missing!r} to import") from error
        raise BackendError(f"{target!r}: importing it failed: {error}{_extra_for(module_name, missing)}") from error
    except Exception as error:
        raise BackendError(f"{target!r}: importing it failed: {type(error).__name__}: {error}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            close = get_close_matches(name, [known for known in dir(found) if not known.startswith("_")], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BackendError(f"{target!r}: {module_name} has no {name!r}{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise BackendError(f"{target!r} is {found!r}, which cannot be called; name a function that makes the backend")
    return found


def make_backend(factory: Callable[[], object], target: str) -> Backend:
    """Call a factory and look whether a backend came out of it.

    Raises:
        BackendError: the factory raised, or what it made lacks a part of the protocol.
    """
    try:
        made = factory()
    except Exception as error:
        missing = error.name or "" if isinstance(error, ImportError) else ""
        extra = _extra_for(target.split(":")[0], missing)
        raise BackendError(f"{target}() raised {type(error).__name__}: {error}{extra}") from error
    if inspect.isawaitable(made):
        if inspect.iscoroutine(made):
            made.close()
        raise BackendError(
            f"{target}() is async. A factory makes the backend before there is an event loop; "
            "what has to be awaited belongs into its start()"
        )
    missing_parts = [name for name in _METHODS if not callable(getattr(made, name, None))]
    missing_parts += [] if hasattr(made, "agents") else ["agents"]
    if missing_parts:
        raise BackendError(
            f"{target}() made a {type(made).__name__}, which lacks {', '.join(missing_parts)}; "
            "pytest_isolation.backend.Backend says what a backend needs"
        )
    return cast("Backend", made)


_METHODS = ("start", "aclose", "request", "connect")


def _extra_for(module: str, missing: str) -> str:
    """Which extra brings what the reference backend needs."""
    if module.split(".")[0] != "reference_impl" or missing.split(".")[0] not in ("sqlalchemy", "aiosqlite", "greenlet"):
        return ""
    return ". The reference backend needs an extra: pip install 'pytest-isolation[reference]'"
