"""A body is run until its budgets are decided: alone in its task and Context, the clock inside."""

import asyncio
import contextvars
import time

import anyio
import pytest

from pytest_isolation.errors import MisuseError, NothingMeasured
from pytest_isolation.latency.decide import State
from pytest_isolation.latency.sampler import Limits, sample_async, sample_sync
from pytest_isolation.latency.spans import Ledger, Recorder
from pytest_isolation.verdicts import Budget, Outcome

P95 = Budget(0.95, 0.5)
TIGHT = Budget(0.95, 1e-9)
ambient = contextvars.ContextVar("ambient", default=0)
on_every_loop = pytest.mark.anyio


def outcome(ledger):
    [verdict] = ledger.verdicts(1.0)
    return verdict.outcome


def test_a_sync_body_is_warmed_up_and_then_sampled_until_it_is_decided():
    """Five runs are not counted, 120 are."""
    runs, ledger = [], Ledger([P95])
    sample_sync(lambda: runs.append(1), ledger, Limits())
    assert (len(runs), len(ledger.samples[None])) == (125, 120)
    assert outcome(ledger) is Outcome.PASS


@on_every_loop
async def test_an_async_body_too():
    """On asyncio and on trio."""
    runs, ledger = [], Ledger([P95])

    async def body():
        await anyio.sleep(0)
        runs.append(1)

    await sample_async(body, ledger, Limits())
    assert (len(runs), outcome(ledger)) == (125, Outcome.PASS)


@on_every_loop
async def test_every_async_sample_has_a_context_of_its_own():
    """A loop in one task would count up."""
    seen = set()

    async def body():
        ambient.set(ambient.get() + 1)
        seen.add(ambient.get())

    await sample_async(body, Ledger([P95]), Limits())
    assert seen == {1}


def test_every_sync_sample_has_a_context_of_its_own():
    """As an asynchronous one."""
    seen = set()

    def body():
        ambient.set(ambient.get() + 1)
        seen.add(ambient.get())

    sample_sync(body, Ledger([P95]), Limits())
    assert seen == {1}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@on_every_loop
async def test_every_async_sample_has_a_task_of_its_own(anyio_backend):
    """And none of them is the test's."""
    tasks = []

    async def body():
        tasks.append(asyncio.current_task())

    await sample_async(body, Ledger([P95]), Limits())
    assert len({id(task) for task in tasks}) == len(tasks)
    assert asyncio.current_task() not in tasks


@on_every_loop
async def test_the_clock_is_inside():
    """Neither making the task nor waiting for it is timed."""
    ledger = Ledger([Budget(0.5, 0.5)])

    async def body():
        start = time.perf_counter()
        while time.perf_counter() - start < 0.002:
            pass

    await sample_async(body, ledger, Limits())
    assert 0.002 <= min(ledger.samples[None]) < 0.0021


@on_every_loop
async def test_a_miss_is_confirmed_in_a_second_run():
    """After a pause, with counts of its own."""
    ledger = Ledger([TIGHT])
    await sample_async(anyio.lowlevel.checkpoint, ledger, Limits(pause_s=0.001))
    [gate] = ledger.gates
    assert (gate.state, gate.confirmed) == (State.FAILED, 40)


def test_a_miss_is_confirmed_for_a_sync_body_too():
    """The same rule."""
    ledger = Ledger([TIGHT])
    sample_sync(lambda: None, ledger, Limits(pause_s=0.001))
    assert outcome(ledger) is Outcome.FAIL


def test_the_time_limit_ends_the_sampling():
    """A slow body is undecided, not sampled for ever; warm-up takes no more than half of it."""
    runs, ledger = [], Ledger([P95])

    def body():
        runs.append(1)
        time.sleep(0.05)

    sample_sync(body, ledger, Limits(seconds=0.1))
    assert outcome(ledger) is Outcome.UNDECIDED
    assert 2 <= len(ledger.samples[None]) <= 3
    assert len(runs) <= 6


def test_the_sample_limit_ends_it_too():
    """So many runs and no more."""
    ledger = Ledger([P95])
    sample_sync(lambda: None, ledger, Limits(samples=50))
    assert (len(ledger.samples[None]), outcome(ledger)) == (50, Outcome.UNDECIDED)


@on_every_loop
async def test_an_error_in_the_body_arrives_plain():
    """Not in an exception group, and at the first run without a note."""

    async def body():
        await anyio.sleep(0)
        raise ValueError("plain")

    with pytest.raises(ValueError, match="plain") as caught:
        await sample_async(body, Ledger([P95]), Limits())
    assert not hasattr(caught.value, "__notes__")


@on_every_loop
async def test_a_body_that_cannot_be_repeated_is_explained():
    """It is the second run that fails."""
    runs = []

    async def body():
        runs.append(1)
        if len(runs) > 1:
            raise FileExistsError("again")

    with pytest.raises(FileExistsError) as caught:
        await sample_async(body, Ledger([P95]), Limits())
    assert "1 run of the body ended well before this one failed" in caught.value.__notes__[0]
    assert "latency.measure" in caught.value.__notes__[0]


@on_every_loop
async def test_an_outcome_of_pytest_arrives_plain_too():
    """pytest.skip and pytest.fail are BaseExceptions."""

    async def body():
        pytest.skip("not here")

    with pytest.raises(pytest.skip.Exception):
        await sample_async(body, Ledger([P95]), Limits())


@on_every_loop
async def test_a_coroutine_that_the_body_drops_is_an_error():
    """Its work was not done, so there is nothing to time."""

    async def fetch(): ...

    async def body():
        fetch()

    with pytest.raises(NothingMeasured, match=r"fetch.*was never awaited"):
        await sample_async(body, Ledger([P95]), Limits())


def test_a_coroutine_that_the_body_returns_is_an_error():
    """A test that is not async cannot await it."""

    async def fetch(): ...

    with pytest.raises(NothingMeasured, match=r"returned .*fetch.* without awaiting it"):
        sample_sync(lambda: fetch(), Ledger([P95]), Limits())


def test_other_warnings_of_the_first_run_are_passed_on():
    """Watching for coroutines swallows nothing else."""
    import warnings

    def body():
        warnings.warn("mind the gap", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="mind the gap"):
        sample_sync(body, Ledger([P95]), Limits(samples=20))


def test_spans_are_judged_by_their_own_budgets():
    """The body is free, the span is not."""
    ledger = Ledger([Budget(0.95, 1e-9, "part"), Budget(0.95, 1.0, "other")])
    recorder = Recorder(ledger)

    def body():
        with recorder.span("part"):
            pass
        with recorder.span("other"):
            pass

    sample_sync(body, ledger, Limits(pause_s=0.001))
    assert {v.budget.span: v.outcome for v in ledger.verdicts(1.0)}["part"] is Outcome.FAIL


@on_every_loop
async def test_a_span_works_with_async_with_and_skips_what_raises():
    """An operation that failed has no latency to speak of."""
    ledger = Ledger([])
    recorder = Recorder(ledger)
    async with recorder.span("part"):
        await anyio.sleep(0)
    for how in ("async", "sync"):
        with pytest.raises(ValueError, match="no"):
            if how == "async":
                async with recorder.span("part"):
                    raise ValueError("no")
            else:
                with recorder.span("part"):
                    raise ValueError("no")
    assert len(ledger.samples["part"]) == 1


def test_a_span_that_is_never_entered_ends_the_sampling_soon_and_is_an_error():
    """Twenty runs are enough to see that; spans that were entered are named."""
    runs, ledger = [], Ledger([Budget(0.95, 1.0, "agent.create")])
    recorder = Recorder(ledger)

    def body():
        runs.append(1)
        with recorder.span("agent.crate"):
            pass

    sample_sync(body, ledger, Limits())
    assert len(runs) == 25
    with pytest.raises(NothingMeasured, match=r"'agent\.create' was never measured.*'agent\.crate'.*latency\.span"):
        ledger.require_samples()


def test_a_body_that_records_its_own_time_is_not_timed_besides():
    """Sections are the samples, if there are any."""
    ledger = Ledger([P95])
    recorder = Recorder(ledger)
    sample_sync(lambda: recorder.record(0.25), ledger, Limits())
    assert set(ledger.samples[None]) == {0.25}
    assert len(ledger.samples[None]) == 120


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None, True])
def test_what_is_no_latency_is_refused(seconds):
    """A latency is a number of seconds."""
    with pytest.raises(MisuseError, match="a number of seconds"):
        Recorder(Ledger([])).record(seconds)


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_span_has_a_name(name):
    """It is what the marker calls it by."""
    with pytest.raises(MisuseError, match="a span has a name"):
        Recorder(Ledger([])).span(name)


def test_a_ledger_without_a_budget_wants_nothing():
    """There is nothing to decide."""
    runs = []
    sample_sync(lambda: runs.append(1), Ledger([]), Limits())
    assert len(runs) == 5


async def sampled_while_it_is_cancelled(body):
    """What becomes of it."""
    sampling = asyncio.create_task(sample_async(body, Ledger([P95]), Limits()))
    await asyncio.sleep(0.02)
    sampling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sampling


@pytest.mark.asyncio
async def test_a_cancellation_reaches_the_sample_that_is_under_way():
    """It can clean up, and no further one begins."""
    runs, ended = [], []

    async def body():
        runs.append(1)
        try:
            await asyncio.sleep(0.001 if len(runs) < 10 else 60)
        finally:
            ended.append(1)

    await sampled_while_it_is_cancelled(body)
    assert len(runs) == len(ended) <= 10
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_a_body_that_cancels_its_own_task_ends_the_sampling():
    """As it would end the test."""
    runs = []

    async def body():
        runs.append(1)
        if len(runs) == 10:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await sample_async(body, Ledger([P95]), Limits())
    assert len(runs) == 10


@pytest.mark.asyncio
async def test_every_sample_has_a_task_of_its_own():
    """So that what it hangs onto its task is no other one's."""
    tasks = []

    async def body():
        tasks.append(asyncio.current_task())

    await sample_async(body, Ledger([P95]), Limits())
    assert len(set(tasks)) == len(tasks) == 125
    assert asyncio.current_task() not in tasks
