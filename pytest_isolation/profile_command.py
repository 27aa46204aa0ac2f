"""``isolation profile``: the options, and what its end means for the shell."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from pytest_isolation.backend import Backend, find_factory, make_backend
from pytest_isolation.command_line import check_save, find_modules, whole
from pytest_isolation.errors import MisuseError
from pytest_isolation.latency.noise import MachineClock
from pytest_isolation.load.served import served_app
from pytest_isolation.load.target import Seat
from pytest_isolation.profile.bottlenecks import Bottlenecks, find_bottlenecks
from pytest_isolation.profile.report import Profile, text
from pytest_isolation.profile.runner import Runner
from pytest_isolation.profile.stages import AREAS, PARTS, Area, Site, read_targets
from pytest_isolation.reports.json import write
from pytest_isolation.users.cast import Cast

_REFERENCE, _REFERENCE_APP = "reference_impl:create_backend", "reference_impl.app:create_app"
_PRESETS = ("minimal", "balanced", "maximum")
_NAIVE = "reference_impl.naive:create_backend"
_PRESET = "REFERENCE_PRESET"
_SAVED = Path("isolation-profile.json")
_MOST_PROFILED = 300
_INTERRUPTED = 128 + signal.SIGINT
_EPILOG = """
Ends with 0 if every target is kept or undecided, 1 if one is missed or could not be measured, 2 for wrong usage, 130
after Ctrl-C, which reports what was measured until then.
"""


def main(arguments: Sequence[str], program: str = "isolation profile") -> int:
    """Profile a backend.

    Args:
        arguments: of the command line, after ``profile``.
        program: how it was called.

    Returns:
        The exit code.
    """
    parser = _parser(program)
    chosen = parser.parse_args(arguments)
    seed = secrets.randbelow(2**32) if chosen.seed is None else chosen.seed
    try:
        check_save(chosen.save)
        work = _Work(chosen, seed)
    except MisuseError as error:
        parser.error(str(error))
    interrupted = False
    try:
        asyncio.run(work.perform())
    except MisuseError as error:
        parser.error(str(error))
    except (asyncio.CancelledError, KeyboardInterrupt):
        interrupted = True
    profile = work.profile(interrupted)
    sys.stdout.write(f"{text(profile)}\n")
    if chosen.save is not None:
        try:
            write(chosen.save, profile.as_results(), seed)
        except OSError as error:
            parser.error(f"--save {chosen.save}: {error}")
    return _INTERRUPTED if interrupted else int(profile.failed)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program, description="Times each stage of a backend against its target.", epilog=_EPILOG
    )
    add = parser.add_argument
    add("--all", action="store_true", help="everything below (also without any of them)")
    for part in PARTS:
        names = ", ".join(_named(area) for area in AREAS if area.part == part)
        add(f"--{part}", action="store_true", help=names)
    add(
        "--iterations",
        type=whole(20),
        default=300,
        metavar="N",
        help="calls of each kind (%(default)s; 120 can prove a p95)",
    )
    add("--users", type=whole(1), default=10, metavar="N", help="of --concurrent, each 5 times a second (%(default)s)")
    add("--backend", metavar="MOD:FACTORY", help=f"what is profiled, in this process ({_REFERENCE})")
    add("--app", metavar="MOD:APP", help=f"the same behind real sockets; of the reference backend {_REFERENCE_APP}")
    add("--token", metavar="MOD:FUNCTION", help="from a user's id to its bearer token, with --app")
    add("--target", action="append", default=[], metavar="STAGE=MS", help="hold a stage to another p95 (repeatable)")
    presets = "|".join(_PRESETS)
    add("--compare", metavar=f"{presets}|naive|MOD:FACTORY", help="run another backend in turn with it")
    add("--seed", type=whole(0), metavar="N", help="of the users' names (picked anew)")
    add("--save", type=Path, nargs="?", const=_SAVED, metavar="PATH.json", help=f"write a report ({_SAVED})")
    return parser


def _named(area: Area) -> str:
    stages = [stage for stage in area.targets if stage]
    return f"{area.name} ({', '.join(stages)})" if stages else area.name


class _Work:
    """One profile, from its options to its results."""

    def __init__(self, chosen: argparse.Namespace, seed: int) -> None:
        find_modules(backend=chosen.backend, app=chosen.app, token=chosen.token)
        self._chosen = chosen
        self._seed = seed
        self._target = chosen.backend or _REFERENCE
        self._backend = make_backend(find_factory(self._target), self._target)
        self._other = None if chosen.compare is None else _other(chosen.compare)
        app = chosen.app or (_REFERENCE_APP if chosen.backend is None else None)
        asked = [part for part in PARTS if getattr(chosen, part)]
        parts = PARTS if chosen.all or not asked else asked
        targets = read_targets(chosen.target)
        self._areas = [
            area.held_to(targets) for area in AREAS if area.part in parts and not (area.over_sockets and app is None)
        ]
        if app is None and chosen.token is not None:
            raise MisuseError("--token goes with --app; a backend in this process takes the user's id itself")
        over_sockets = any(area.over_sockets for area in self._areas)
        if chosen.app is not None and not over_sockets:
            raise MisuseError("--app is measured by --websocket and --e2e; name one of them, or --all")
        self._app = served_app(app, chosen.token) if app and over_sockets else None
        self._notes = [] if app else ["nothing was measured over real sockets: name an application with --app MOD:APP"]
        self._runner: Runner | None = None
        self._bottlenecks: Bottlenecks | None = None

    async def perform(self) -> None:
        """Do all of it.

        Raises:
            MisuseError: something cannot be started.
        """
        cast = Cast(self._seed, "isolation profile")
        async with _started(self._backend, self._target), self._seated() as seat:
            site = Site(self._backend, cast, seat)
            clock = MachineClock()
            self._runner = Runner(site, self._chosen.iterations, self._chosen.users, clock, _tell)
            await self._runner.measure(self._areas)
            if self._other is not None:
                async with _started(self._other, self._chosen.compare):
                    await self._runner.compare(self._areas, Site(self._other, cast), self._chosen.compare)
            await self._look_for_bottlenecks(site)

    @asynccontextmanager
    async def _seated(self) -> AsyncIterator[Seat | None]:
        if self._app is None:
            yield None
            return
        try:
            await self._app.start()
            seat = self._app.seat()
            try:
                yield seat
            finally:
                await seat.aclose()
        finally:
            await self._app.aclose()

    async def _look_for_bottlenecks(self, site: Site) -> None:
        area = next((a for a in (*reversed(self._areas),) if a.part == "e2e" and not a.over_sockets), None)
        if area is None or self._runner is None or self._runner.complaints:
            return
        _tell("where the time goes")
        from pytest_isolation.latency.spans import Ledger, Recorder

        call = partial(area.body, site, Recorder(Ledger(())))
        try:
            self._bottlenecks = await find_bottlenecks(call, min(self._chosen.iterations, _MOST_PROFILED))
        except ImportError:
            self._notes.append("where the time goes is seen with an extra: pip install 'pytest-isolation[profile]'")

    def profile(self, interrupted: bool) -> Profile:
        """What was measured until now."""
        runner = self._runner
        target = f"{self._target}, in this process" + (f"; {self._app.name}" if self._app is not None else "")
        return Profile(
            target=f"{target}; {self._chosen.iterations} calls of each kind, seed {self._seed}",
            results=tuple(runner.results) if runner else (),
            comparisons=tuple(runner.comparisons) if runner else (),
            bottlenecks=self._bottlenecks,
            complaints=tuple(runner.complaints) if runner else (),
            notes=tuple(self._notes),
            interrupted=interrupted,
        )


def _other(name: str) -> Backend:
    """The backend to compare with.

    Raises:
        MisuseError: there is none of this name, or it cannot be made.
    """
    if name in _PRESETS:
        with _environment(_PRESET, name):
            return make_backend(find_factory(_REFERENCE), _REFERENCE)
    if name == "naive":
        name = _NAIVE
    if ":" not in name:
        raise MisuseError(f"--compare takes {', '.join(_PRESETS)}, naive or MOD:FACTORY, not {name!r}")
    find_modules(backend=name)
    return make_backend(find_factory(name), name)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@asynccontextmanager
async def _started(backend: Backend, name: str) -> AsyncIterator[None]:
    """A backend for the time of the block.

    Raises:
        MisuseError: it cannot be started, or has no agent.
    """
    try:
        await backend.start()
    except Exception as error:
        raise MisuseError(f"{name}: its start() raised {type(error).__name__}: {error}") from error
    try:
        if not backend.agents:
            raise MisuseError(f"{name}: it has no agent, so nobody can ask it anything")
        yield
    finally:
        await backend.aclose()


def _tell(said: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{said} …\n")
