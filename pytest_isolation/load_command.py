"""``isolation load``: the options, and what its end means for the shell."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pytest_isolation.command_line import check_save, find_modules, number, whole
from pytest_isolation.errors import MisuseError, NothingMeasured
from pytest_isolation.load import report
from pytest_isolation.load.inside import BackendTarget
from pytest_isolation.load.outcome import Outcome
from pytest_isolation.load.plan import MIX, Mix, Plan, parse_mix
from pytest_isolation.load.progress import Progress
from pytest_isolation.load.runner import Runner
from pytest_isolation.load.served import running_server, served_app
from pytest_isolation.load.target import Target

_REFERENCE = "reference_impl:create_backend"
_INTERRUPTED = 128 + signal.SIGINT
_EPILOG = """
Ends with 0 if everything held, 1 if isolation, the target or the error rate failed or nothing was measured, 2 for
wrong usage, 130 after Ctrl-C, which reports what was measured until then.
"""


def main(arguments: Sequence[str], program: str = "isolation load") -> int:
    """Do a load test.

    Args:
        arguments: of the command line, after ``load``.
        program: how it was called.

    Returns:
        The exit code.
    """
    parser = _parser(program)
    chosen = parser.parse_args(arguments)
    try:
        plan = _plan(chosen)
        check_save(chosen.save)
        outcome = _perform(plan, _target(chosen))
    except MisuseError as error:
        parser.error(str(error))
    except NothingMeasured as error:
        sys.stderr.write(f"{program}: nothing measured: {error}\n")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):  # before the load test, or a second time
        return _INTERRUPTED
    sys.stdout.write(f"{report.text(outcome)}\n" if outcome.phases else "")
    if chosen.save is not None:
        try:
            report.save(chosen.save, outcome)
        except OSError as error:
            parser.error(f"--save {chosen.save}: {error}")
    if outcome.interrupted:
        return _INTERRUPTED
    return 1 if outcome.complaints else 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program,
        description="Puts a backend under the load of many users, and judges isolation, latency and errors meanwhile.",
        epilog=_EPILOG,
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--backend", metavar="MOD:FACTORY", help=f"a backend, in this process; without any of the three {_REFERENCE}"
    )
    target.add_argument("--app", metavar="MOD:APP", help="an ASGI application, served on a free port of 127.0.0.1")
    target.add_argument("--url", metavar="URL", help="a server that runs already")
    add = parser.add_argument
    add("--users", type=whole(1), default=100, metavar="N", help="who are there all the time (%(default)s)")
    add("--duration", type=number(), default=60.0, metavar="S", help="of all phases, in seconds (%(default)g)")
    add("--burst-users", type=whole(0), metavar="N", help="who come besides, at once (twice --users); 0: no burst")
    add("--burst-duration", type=number(), metavar="S", help="how long they stay (a sixth of --duration)")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--think-time", type=number(), default=1000.0, metavar="MS", help="between requests of a user (%(default)g)"
    )
    pace.add_argument("--rate", type=number(), metavar="R", help="requests a second of all --users, instead of it")
    add("--mix", type=_mix, default=MIX, metavar="NAME=WEIGHT[,…]", help=f"of the last phase ({_shown(MIX)})")
    add("--target-p95", type=number(), default=50.0, metavar="MS", help="that has to hold (%(default)g)")
    add("--max-error-rate", type=_share, default=0.001, metavar="X", help="of each phase's attempts (%(default)g)")
    add("--timeout", type=number(), default=10.0, metavar="S", help="no answer by then is an error (%(default)g)")
    add("--seed", type=whole(0), metavar="N", help="of arrivals and secrets (picked anew)")
    add("--token", metavar="MOD:FUNCTION", help="from a user's id to its bearer token, with --app and --url")
    add("--save", type=Path, metavar="PATH.json", help="write a report")
    return parser


def _plan(chosen: argparse.Namespace) -> Plan:
    burst_users = 2 * chosen.users if chosen.burst_users is None else chosen.burst_users
    return Plan(
        seed=secrets.randbelow(2**32) if chosen.seed is None else chosen.seed,
        users=chosen.users,
        duration_s=chosen.duration,
        burst_users=burst_users,
        burst_s=chosen.duration / 6 if chosen.burst_duration is None else chosen.burst_duration,
        pause_s=chosen.think_time / 1000 if chosen.rate is None else chosen.users / chosen.rate,
        target_s=chosen.target_p95 / 1000,
        max_error_rate=chosen.max_error_rate,
        mix=chosen.mix,
        timeout_s=chosen.timeout,
    )


def _target(chosen: argparse.Namespace) -> Target:
    """What is put under load.

    Raises:
        MisuseError: it is not there, its name is no name, or a library is missing.
    """
    find_modules(backend=chosen.backend, app=chosen.app, token=chosen.token)
    if chosen.app is None and chosen.url is None:
        if chosen.token is not None:
            raise MisuseError("--token goes with --app or --url; a backend in this process takes the user's id itself")
        return BackendTarget(chosen.backend or _REFERENCE)
    return served_app(chosen.app, chosen.token) if chosen.app is not None else running_server(chosen.url, chosen.token)


def _perform(plan: Plan, target: Target) -> Outcome:
    async def perform() -> Outcome:
        runner = Runner(plan, target, Progress(sys.stderr))
        with _interruptible(runner):
            return await runner.run()

    return asyncio.run(perform())


@contextmanager
def _interruptible(runner: Runner) -> Iterator[None]:
    """Let the first Ctrl-C stop gently, the second break off and clean up, the third do what it always does."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None or threading.current_thread() is not threading.main_thread():  # no other has signals
        yield
        return
    steps: list[Callable[[], object]] = [runner.stop, task.cancel]

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        if not steps:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(steps.pop(0))

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"it takes a share from 0 to 1, such as 0.001, not {text!r}")
    return share


def _mix(text: str) -> Mix:
    try:
        return parse_mix(text)
    except MisuseError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _shown(mix: Mix) -> str:
    return ",".join(f"{name}={weight:g}" for name, weight in mix.items())
