"""Makes users, and keeps who may see whose what."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

from pytest_isolation.errors import MisuseError
from pytest_isolation.model import Evidence, Observation, Run, Share
from pytest_isolation.users import canary
from pytest_isolation.users.snapshot import snapshot, unordered
from pytest_isolation.users.tracked import Tracked
from pytest_isolation.verdicts import NEVER, Interval

T = TypeVar("T")


class User:
    """A virtual user: an id, its canaries, and what it saw.

    Attributes:
        index: its place among the users of its phase, from 0.
        anonymous: True for a user without credentials.
    """

    __slots__ = (
        *("_cast", "_is_told", "_key", "_label", "_number", "_observations", "_overheard", "_secrets"),
        *("anonymous", "index"),
    )

    def __init__(self, cast: Cast, number: int, index: int, label: str) -> None:
        self._cast = cast
        self._key = cast.key
        self._number = number
        self._label = label
        self._observations: list[Observation] = []
        self._overheard: list[Observation] = []
        self._is_told = False
        self._secrets: dict[str, str] = {}
        self.index = index
        self.anonymous = False

    def __repr__(self) -> str:
        return f"<{self._label}>"

    @property
    def id(self) -> str:
        """Unique to this user and test; itself a canary, named ``id``."""
        return self.secret("id")

    def secret(self, name: str = "secret") -> str:
        """A text that only this user knows: lower-case letters and digits, 20 to 31 of them, the same at every call.

        Args:
            name: tells several secrets of one user apart, and names this one in reports.
        """
        if not isinstance(name, str):
            raise MisuseError(f"a secret's name is a str, not {name!r}: user.secret('note')")
        text = self._secrets.get(name)
        if text is None:
            text = self._secrets[name] = canary.mint(
                self._cast.key if name == "id" else self._key, self._number, self._cast.slug_of(name)
            )
        return text

    def number(self, name: str = "number") -> int:
        """A number that only this user knows: fifteen digits, exact in JSON and in a double.

        Args:
            name: tells several numbers of one user apart, and names this one in reports.

        Raises:
            MisuseError: more than 100 names in one test, or the name is no text.
        """
        if not isinstance(name, str):
            raise MisuseError(f"a number's name is a str, not {name!r}: user.number('amount')")
        try:
            return canary.mint_number(self._key, self._number, self._cast.code_of(name))
        except ValueError as error:
            raise MisuseError(f"{self._label}.number({name!r}): {error}; user.secret(…) has room for more") from None

    def observe(self, value: T, channel: str = "response", *, ordered: bool = True) -> T:
        """Say that this user saw something; it is copied now and judged when the phase has ended.

        Args:
            value: what was seen: a text, bytes, a structure of them, an object, an exception.
            channel: where it came from.
            ordered: False if the order of lists in it means nothing, as of rows that nobody sorted.

        Returns:
            The value.

        Raises:
            MisuseError: the value is a coroutine or an iterator that has not run, or the channel is no text.
        """
        if not isinstance(channel, str):
            raise MisuseError(f"a channel is named by a text: user.observe(value, 'websocket'), not {channel!r}")
        seen = snapshot(value)
        keep(self, Observation(channel, seen if ordered else unordered(seen)))
        return value

    def track(self, thing: T) -> T:
        """Hand over what belongs to this user's run: when the run has ended, nothing may keep it alive.

        It is referred to weakly, so that tracking itself keeps nothing.

        Args:
            thing: a context, a session, a message: any object that can be referred to weakly, and is no class, module
                or function of the code's own.

        Returns:
            The object.

        Raises:
            MisuseError: it cannot be referred to weakly, or belongs to no user.
        """
        self._cast.tracked.add(self._number, thing)
        return thing

    @property
    def http(self) -> Any:
        """An HTTP client of this user's own, which observes what it receives: ``await user.http.get("/notes")``.

        It is an ``httpx.AsyncClient`` in async code and an ``httpx.Client`` in sync code.

        Raises:
            MisuseError: there is no application (fixture ``isolation_app``), or a library is missing.
        """
        return self._target.http(self)

    def websocket(self, path: str, **options: Any) -> Any:
        """Connect to a WebSocket, every message of which is observed: ``async with user.websocket("/ws") as socket``.

        Args:
            path: at which the application listens.
            options: of ``websockets.connect``, such as ``subprotocols=["chat"]``.

        Raises:
            MisuseError: there is no application (fixture ``isolation_app``), or a library is missing.
        """
        return self._target.websocket(self, path, options)

    @property
    def _target(self) -> Target:
        if self._cast.target is None:
            raise MisuseError(f"{self._label} has no application to talk to: take the fixture `user` or `users`")
        return self._cast.target

    def name_of(self, hit: canary.Hit) -> str:
        """What a canary was called when it was planted, by this user or another."""
        return self._cast.names.get(hit.name, hit.name or "secret")

    def share(self, name: str = "secret", *others: User) -> None:
        """Declare that others may see a secret of this user: it is then no leak.

        Args:
            name: the secret's or the number's name; ``"id"`` for the user's id.
            others: who may see it; nobody named means everybody.

        Raises:
            MisuseError: the name is no text, or one of the others is no user.
        """
        if not isinstance(name, str):
            raise MisuseError(f"share() takes the name of a secret first, then users: share('note', bob), not {name!r}")
        for other in others:
            if not isinstance(other, User):
                raise MisuseError(
                    f"share({name!r}, …) takes users, not {other!r}; share({name!r}) alone shares with everybody"
                )
        for viewer in others or (None,):
            self._cast.shares.add(Share(self._number, name, viewer._number if viewer else None))


class Visit(Protocol):
    """The time for which a user's connections are open: ``with`` in sync code, ``async with`` in async code."""

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *error: object) -> None: ...


class Target(Protocol):
    """The application under test, and the clients with which users reach it (``targets.clients``)."""

    def http(self, user: User) -> Any:
        """A user's HTTP client."""

    def websocket(self, user: User, path: str, options: Mapping[str, Any]) -> Any:
        """A context manager that connects a user's WebSocket."""

    def visit(self, user: User | None) -> Visit:
        """The time for which a user's connections are open; nobody means everybody's."""


class Cast:
    """The users of one test.

    Args:
        seed: of the whole session.
        test: the test's node id; with the seed it determines every canary.
        take: how often this test has been played in this session.

    Attributes:
        late: what users observed after it was told what came of their run.
        target: what they talk to over sockets; None if there is nothing of the kind.
        anonymous: which share of a crowd has no credentials, from 0 to 1.
        tracked: what users handed over that must go when their runs have ended.
    """

    def __init__(self, seed: int, test: str, take: int = 0) -> None:
        self.key = canary.encode_key(zlib.crc32(f"{seed}:{test}:{take}".encode()))
        self.shares: set[Share] = set()
        self.late: list[tuple[User, Observation]] = []
        self.target: Target | None = None
        self.anonymous = 0.0
        self.tracked = Tracked()
        self._labels: dict[int, str] = {}
        self._made: Counter[str] = Counter()
        self._slugs: dict[str, str] = {}
        self._codes: list[str] = []

    def users(self, count: int, stem: str = "user", anonymous: bool | None = None) -> list[User]:
        """More users, with numbers of their own, labelled ``stem-00`` and on.

        Args:
            count: how many.
            stem: what they are called; a label is never given twice.
            anonymous: all of them are, or nobody is; None spreads the share over them.

        Raises:
            MisuseError: there is no number left.
        """
        first, before = len(self._labels), self._made[stem]
        if first + count > canary.OWNERS:
            raise MisuseError(f"one test can have {canary.OWNERS:,} users, not {first + count:,}")
        width = max(2, len(str(before + count - 1)))
        new = [User(self, first + i, i, f"{stem}-{before + i:0{width}d}") for i in range(count)]
        for one in _spread(new, self.anonymous if anonymous is None else float(anonymous), stem):
            one.anonymous = True
        self._made[stem] += count
        self._labels.update((user._number, user._label) for user in new)
        return new

    def again(self, user: User) -> User:
        """The same user, who has seen nothing yet: the same number, label and secrets."""
        new = User(self, user._number, user.index, user._label)
        new.anonymous = user.anonymous
        new._secrets = user._secrets
        return new

    def varied(self, user: User, variant: int) -> User:
        """The same user with other secrets and numbers, of the same length; its id stays.

        Args:
            user: whom.
            variant: which other ones.
        """
        new = self.again(user)
        new._secrets = {}
        new._key = canary.encode_key(zlib.crc32(f"{self.key}:{variant}".encode()))
        return new

    def visit(self, user: User | None = None) -> Visit:
        """Around a run of a user: its connections are closed at the end; around a test, those that are left."""
        return nullcontext() if self.target is None else self.target.visit(user)

    def evidence(self, phase: str, runs: Iterable[Run], replay: str = "") -> Evidence:
        """What a phase left behind, ready for the oracles."""
        return Evidence(phase, tuple(runs), self.key, self._labels, frozenset(self.shares), self.names, replay)

    def late_runs(self) -> list[Run]:
        """What users observed after their run had been told; it is handed out once."""
        seen: dict[User, list[Observation]] = {}
        for user, observation in self.late:
            seen.setdefault(user, []).append(observation)
        self.late.clear()
        return [Run(user._label, user._number, tuple(observations)) for user, observations in seen.items()]

    @property
    def numbers(self) -> Collection[int]:
        """Of all users that it has made."""
        return self._labels.keys()

    @property
    def names(self) -> Mapping[str, str]:
        """The full name of every secret, by the form in which canaries carry it."""
        codes = {f"#{code}": name for code, name in enumerate(self._codes)}
        return codes | {short: name for name, short in self._slugs.items()}

    @property
    def planted(self) -> bool:
        """At least one secret or number has been handed out."""
        return bool(self._slugs or self._codes)

    def slug_of(self, name: str) -> str:
        """The form in which canaries carry this name; two names never share one."""
        if name not in self._slugs:
            taken, wanted, extra = set(self._slugs.values()), canary.slug(name), 1
            short = wanted
            while short in taken:
                extra += 1
                short = f"{wanted[: canary.NAME_LENGTH - len(str(extra))]}{extra}"
            self._slugs[name] = short
        return self._slugs[name]

    def code_of(self, name: str) -> int:
        """The number under which numeric canaries carry this name."""
        if name not in self._codes:
            self._codes.append(name)
        return self._codes.index(name)


def is_foreign(evidence: Evidence, number: int, hit: canary.Hit) -> bool:
    """The canary belongs to somebody other than this user of the evidence's cast.

    A number of another cast is not counted: its three digits of key are too few to accuse anyone.
    """
    owner = owner_of(evidence, hit)
    return not hit.name.startswith("#") if owner is None else owner != number


def owner_of(evidence: Evidence, hit: canary.Hit) -> int | None:
    """The number of the user of the evidence's cast whose canary it is; None if it is another cast's."""
    return canary.owner_in(evidence.key, hit, evidence.labels)


def is_shared(evidence: Evidence, number: int, hit: canary.Hit) -> bool:
    """The canary belongs to somebody else who lets this user see it.

    A canary that was cut short may carry too little of its name: it is shared if its owner shares any that fits.
    """
    if not evidence.shares or not is_foreign(evidence, number, hit):
        return False
    owner = owner_of(evidence, hit)
    shared = {share.name for share in evidence.shares if share.owner == owner and share.viewer in (None, number)}
    if hit.name:
        return evidence.names.get(hit.name, hit.name) in shared
    return any(
        name in shared and canary.fits(short, hit.rest) for short, name in evidence.names.items() if short[0] != "#"
    )


def _spread(users: Sequence[User], share: float, stem: str) -> Iterable[User]:
    """Who is anonymous: as many as asked for and one at least, evenly spread; of those who play alone every other."""
    if share in (0.0, 1.0):
        return users if share else ()
    if stem == "solo":
        return users[1::2]
    number = max(1, round(len(users) * share)) if len(users) > 1 else 0
    return [users[(i + 1) * len(users) // number - 1] for i in range(number)]


def run_of(
    user: User,
    error: BaseException | None = None,
    ended: bool = True,
    seconds: float = 0.0,
    played: Interval = NEVER,
    machine_s: float = 0.0,
    waits_at: str = "",
) -> Run:
    """What came of a user's way through the scenario; what it observes from now on is late.

    Args:
        user: who played.
        error: the exception that ended it.
        ended: False when it was stopped from outside.
        seconds: how long it took, from when it was due.
        played: when it began and ended.
        machine_s: how much of the seconds the machine added.
        waits_at: where it was still waiting.
    """
    user._is_told = True
    seen, overheard = tuple(user._observations), tuple(user._overheard)
    about = seen, error, ended, seconds, played, machine_s, user.anonymous, overheard, waits_at
    return Run(user._label, user._number, *about)


def keep(user: User, observation: Observation) -> None:
    """Keep what a user saw.

    Args:
        user: who saw it.
        observation: a copy of it.
    """
    if user._is_told:  # a listener that outlived the run, or a fixture that is torn down
        user._cast.late.append((user, observation))
    else:
        user._observations.append(observation)


def overhear(user: User, channel: str, value: object) -> None:
    """Keep what was logged, warned of or printed during a user's work.

    Args:
        user: who was at work; after its run, what it started may work for anybody, and is not listened to.
        channel: where it came from.
        value: plain values that nobody else can change.
    """
    if not user._is_told:
        user._overheard.append(Observation(channel, value))


def hand_over(user: User, error: BaseException | None = None) -> Run:
    """What a user saw since it was last handed over; so one who stays for long needs no more memory than one request.

    Args:
        user: who played, and plays on.
        error: what the last thing that it did was ended by.
    """
    run = run_of(user, error)
    user._observations.clear()
    user._overheard.clear()
    user._is_told = False
    return run
