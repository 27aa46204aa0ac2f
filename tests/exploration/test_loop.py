"""The controlled loop: whatever works on asyncio's own loop works on it, and nothing but the order is ours."""

import asyncio
import contextvars
import os
import queue
import random
import signal
import sys
import threading
import time

import anyio.to_thread
import pytest

from pytest_isolation.errors import MisuseError
from pytest_isolation.phases.conductor import Conductor, Stuck
from pytest_isolation.phases.exploration import clean_up
from pytest_isolation.phases.loop import ControlledLoop, why_not, why_not_asyncio
from pytest_isolation.phases.strategies import Pct, Replay, Strategy, Uniform

SEEDS = range(5)


def play(main, strategy=None, most_steps=20_000, **options):
    """What a coroutine function returns on the controlled loop, and who conducted it."""
    conductor = Conductor(strategy or Replay(), most_steps)
    loop = ControlledLoop(conductor, **options)

    async def decided():
        with conductor.deciding():
            return await main()

    try:
        return loop.run_until_complete(decided()), conductor
    finally:
        clean_up(loop, conductor)


def chance(seed):
    """Any order."""
    return Uniform(random.Random(seed), cancels=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_readable_socket_is_handled_once(seed):
    """A poll after every handle reports it again and again."""

    async def echo(reader, writer):
        writer.write(await reader.readexactly(4))
        writer.close()
        await writer.wait_closed()

    async def ask(port, text):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def main():
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.gather(ask(port, b"abcd"), ask(port, b"efgh"))

    answers, conductor = play(main, chance(seed), most_steps=2_000)
    assert answers == [b"abcd", b"efgh"]
    assert conductor.external > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_child_process_is_heard_to_its_end(seed):
    """Its transport relies on the order of callbacks."""

    async def main():
        command = (sys.executable, "-S", "-c", "print('from the child')")
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await child.communicate()
        return said, child.returncode

    assert play(main, chance(seed))[0] == (b"from the child\n", 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_task_never_overtakes_a_callback_that_came_first(seed):
    """asyncio promises callbacks their order."""
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(seen.append, 1)
        loop.call_soon(seen.append, 2)

        async def late():
            seen.append(3)

        await loop.create_task(late())

    play(main, chance(seed))
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_a_method_of_a_task_is_a_callback_like_any_other(seed):
    """Only its steps are its own; what was called before anything else comes before that."""
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(asyncio.sleep(5))
        await asyncio.sleep(0.1)
        loop.call_soon(task.cancel)
        loop.call_soon(lambda: seen.append(task.cancelling()))
        await asyncio.wait([task])

    play(main, chance(seed))
    assert seen == [1]


@pytest.mark.parametrize("seed", range(20))
def test_new_tasks_begin_in_the_order_in_which_they_were_made(seed):
    """Code may rely on that, and asyncio keeps it."""
    begun = []

    async def one(number):
        begun.append(number)
        await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(one(number) for number in range(4)))

    play(main, chance(seed))
    assert begun == [0, 1, 2, 3]


@pytest.mark.parametrize("in_thread", [asyncio.to_thread, anyio.to_thread.run_sync], ids=["asyncio", "anyio"])
def test_time_does_not_jump_while_a_thread_is_at_work(in_thread):
    """A timeout of ten virtual seconds is no reason to give up a thread that takes a moment."""

    async def main():
        async with asyncio.timeout(10):
            await in_thread(time.sleep, 0.06)
        return "in time"

    assert play(main)[0] == "in time"


def test_what_other_threads_call_is_neither_lost_nor_run_in_them():
    """They leave it at the door, and the loop counts them."""
    called_in = []

    async def main():
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def call():
            called_in.append(threading.get_ident())
            if len(called_in) == 20:
                done.set()

        def work():
            for _ in range(10):
                loop.call_soon_threadsafe(call)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        await done.wait()
        for thread in threads:
            thread.join()

    _, conductor = play(main)
    assert called_in == [threading.get_ident()] * 20
    assert conductor.external >= 20


def test_with_inline_threads_one_seed_is_one_run():
    """A job for a thread is then a task like any other."""

    async def one(number, seen):
        seen.append(await asyncio.to_thread(lambda: number))
        await asyncio.sleep(0)

    def once():
        seen = []

        async def main():
            await asyncio.gather(*(one(number, seen) for number in range(4)))

        _, conductor = play(main, chance(3), inline_threads=True)
        return seen, conductor.values, conductor.external

    runs = [once() for _ in range(10)]
    assert runs == [runs[0]] * 10
    assert runs[0][2] == 0


def test_an_inline_job_hands_over_its_exception():
    """Whoever waits for it gets it."""

    async def main():
        await asyncio.to_thread(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        play(main, inline_threads=True)


def test_an_inline_job_has_no_more_of_the_callers_context_than_a_thread_has():
    """``run_in_executor`` hands over none."""
    variable = contextvars.ContextVar("variable")

    async def main():
        variable.set("the caller's")
        return await asyncio.get_running_loop().run_in_executor(None, variable.get, "unset")

    assert [play(main)[0], play(main, inline_threads=True)[0]] == ["unset", "unset"]


@pytest.mark.parametrize("wait", ["queue", "simple queue", "event", "lock", "somewhere else"])
def test_a_thread_that_waits_for_work_is_not_waited_for(wait):
    """A private thread may live as long as the backend, and do nothing."""
    over, many, held = threading.Event(), queue.SimpleQueue(), threading.Lock()
    waits = {
        "queue": queue.Queue().get,
        "simple queue": many.get,
        "event": over.wait,
        "lock": held.acquire,
        "somewhere else": lambda: time.sleep(0.6),
    }

    def work():
        waits[wait]()

    async def main():
        threading.Thread(target=work, daemon=True).start()
        for _ in range(3):
            await asyncio.sleep(3600)
        return "on time"

    held.acquire()
    begun = time.perf_counter()
    assert play(main)[0] == "on time"
    assert time.perf_counter() - begun < 5, "not until the loop gives it up, which takes ten seconds"
    over.set()
    many.put(None)
    held.release()


@pytest.mark.parametrize("hand_over", [queue.SimpleQueue, queue.Queue])
def test_a_thread_that_has_been_given_work_is_waited_for(hand_over):
    """Time does not jump between the moment in which it is handed over and the one in which it answers."""

    async def main():
        jobs, loop = hand_over(), asyncio.get_running_loop()

        def work():
            while (job := jobs.get()) is not None:
                time.sleep(0.01)
                loop.call_soon_threadsafe(job.set_result, None)

        threading.Thread(target=work, daemon=True).start()
        async with asyncio.timeout(3600):
            for _ in range(20):
                jobs.put(job := loop.create_future())
                await job
        jobs.put(None)
        return "in time"

    assert play(main)[0] == "in time"


def test_cleaning_up_decides_nothing():
    """What a run leaves behind is cancelled in asyncio's order, and not written down."""

    async def main():
        asyncio.get_running_loop().left = [asyncio.ensure_future(asyncio.sleep(60)) for _ in range(3)]
        await asyncio.sleep(0)

    conductor = Conductor(chance(1), 1000)
    loop = ControlledLoop(conductor)

    async def decided():
        with conductor.deciding():
            await main()

    loop.run_until_complete(decided())
    decided_before, left = list(conductor.values), loop.left
    clean_up(loop, conductor)
    assert conductor.values == decided_before
    assert all(task.cancelled() for task in left)


def test_a_run_without_end_is_stopped():
    """After so many steps."""

    async def main():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="more than 201 steps"):
        play(main, most_steps=100)


def test_a_deadlock_is_told_at_once():
    """Nobody waits for real time when nothing can happen."""

    async def main():
        await asyncio.Event().wait()

    with pytest.raises(Stuck, match="nothing is left that could wake anybody up"):
        play(main)


def test_time_jumps_to_the_next_timer():
    """An hour is no time, and exact."""

    async def main():
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(1800))
        return loop.time() - begun

    assert play(main)[0] == 3600


@pytest.mark.parametrize(("delay_s", "first"), [(0.02, "timer"), (0.2, "steps")])
def test_only_a_near_timer_may_overtake_what_is_ready(delay_s, first):
    """A machine may be slow for some milliseconds, and not for ever."""
    seen = []

    class LastOption(Strategy):
        def pick(self, keys):
            return len(keys) - 1

    async def main():
        asyncio.get_running_loop().call_later(delay_s, seen.append, "timer")
        await asyncio.sleep(0)
        seen.append("steps")
        await asyncio.sleep(1)

    play(main, LastOption())
    assert seen[0] == first


def test_a_signal_is_handled():
    """As on any loop of asyncio."""
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, seen.append, "signal")
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(1)
        loop.remove_signal_handler(signal.SIGUSR1)

    play(main)
    assert seen == ["signal"]


@pytest.mark.parametrize("seed", range(40))
def test_without_deviation_the_order_is_that_of_asyncio(seed):
    """A program of tasks, queues and events runs on both loops in the same order."""

    def program(seen):
        dice = random.Random(seed)
        plans = [[dice.randrange(4) for _ in range(6)] for _ in range(5)]

        async def main():
            queue, lock = asyncio.Queue(), asyncio.Lock()

            async def one(name, plan):
                for step in plan:
                    seen.append((name, step))
                    if step == 0:
                        await asyncio.sleep(0)
                    elif step == 1:
                        queue.put_nowait(name)
                        await queue.get()
                    elif step == 2:
                        async with lock:
                            await asyncio.sleep(0)
                    else:
                        await asyncio.ensure_future(asyncio.sleep(0))

            await asyncio.gather(*(one(name, plan) for name, plan in enumerate(plans)))

        return main

    stock, ours = [], []
    asyncio.run(program(stock)())
    play(program(ours))
    assert ours == stock


@pytest.mark.parametrize("seconds", [4e7, 1e12])
def test_a_timer_that_is_years_away_fires(seconds):
    """A float can tell no nanoseconds from one another there."""

    async def main():
        loop, seen = asyncio.get_running_loop(), []
        loop.call_later(seconds, seen.append, "late")
        await asyncio.sleep(seconds)
        await asyncio.sleep(1)
        return seen

    assert play(main)[0] == ["late"]


def test_a_timer_at_no_time_never_fires():
    """As of a timeout that is infinite: nothing can happen any more, and that is said."""

    async def main():
        async with asyncio.timeout(float("inf")):
            await asyncio.sleep(1)
            await asyncio.Event().wait()

    with pytest.raises(Stuck, match="nothing is left"):
        play(main)


class Unhurried(asyncio.SelectorEventLoop):
    """asyncio's own, but that its time jumps to the next timer when nothing is ready, and hardly passes otherwise."""

    now_s = 1000.0

    def time(self):
        self.now_s += 1e-12
        return self.now_s

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now_s = max(self.now_s, self._scheduled[0].when())
        super()._run_once()


@pytest.mark.parametrize("seed", range(40))
def test_timers_and_callbacks_come_as_they_would_on_asyncio(seed):
    """Those that are due at once or at the same time, and that are called off, too."""

    def program(seen):
        dice = random.Random(seed)
        plans = [[(dice.randrange(5), dice.uniform(0.001, 0.002)) for _ in range(6)] for _ in range(4)]

        async def main():
            loop = asyncio.get_running_loop()

            async def one(name, plan):
                for place, (step, delay_s) in enumerate(plan):
                    seen.append((name, place, round(loop.time() - 1000.0, 6)))
                    if step == 0:
                        loop.call_later(0, seen.append, (name, "at once"))
                        await asyncio.sleep(0)
                    elif step == 1:
                        loop.call_soon(seen.append, (name, "soon"))
                        loop.call_later(delay_s, seen.append, (name, "later"))
                    elif step == 2:
                        loop.call_later(delay_s, seen.append, (name, "never")).cancel()
                        await asyncio.sleep(delay_s)
                    elif step == 3:
                        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(3 * delay_s))], timeout=delay_s)
                    else:
                        await asyncio.sleep(delay_s / 2)

            await asyncio.gather(*(one(name, plan) for name, plan in enumerate(plans)))

        return main

    stock, ours = [], []
    with asyncio.Runner(loop_factory=Unhurried) as runner:
        runner.run(program(stock)())
    play(program(ours))
    assert ours == stock


def test_uvloop_is_refused_plainly():
    """It is written in C."""
    loop = type("Loop", (asyncio.SelectorEventLoop,), {"__module__": "uvloop"})()
    try:
        assert "uvloop.Loop is written in C" in why_not(loop)
    finally:
        loop.close()


def test_a_loop_without_the_parts_is_refused_plainly(monkeypatch):
    """A later Python may have others; nobody should have to guess."""
    monkeypatch.setattr(asyncio.BaseEventLoop, "_run_once", None)
    why_not_asyncio.cache_clear()
    try:
        with pytest.raises(MisuseError, match=r"Python 3\.\S+ has no _run_once, which the controlled loop replaces"):
            ControlledLoop(Conductor(Replay(), 10))
    finally:
        why_not_asyncio.cache_clear()


class Asking(Pct):
    """Priorities, and a look at whether each was there when it was needed."""

    def pick(self, keys):
        assert self._known >= set(keys)
        return super().pick(keys)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_task_has_its_priority_before_it_is_compared_with_others(seed):
    """Those that are made meanwhile, too."""

    async def steps(more):
        await asyncio.sleep(0)
        await asyncio.gather(*(steps(more - 1) for _ in range(2 if more else 0)))

    async def main():
        await asyncio.gather(*(steps(2) for _ in range(3)))

    play(main, Asking(random.Random(seed), cancels=0))
