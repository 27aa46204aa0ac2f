"""Several runs at once: closed, or paced and timed from when they were due."""

import random
import time

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.latency.arrivals import Pace, sample_closed, sample_paced, still_growing
from pytest_isolation.latency.sampler import Limits
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.verdicts import Budget, Outcome

P95 = Budget(0.95, 0.5)
TIGHT = Budget(0.95, 1e-9)
on_every_loop = pytest.mark.anyio


def verdict_of(ledger):
    [verdict] = ledger.verdicts(1.0)
    return verdict


def outcome(ledger):
    return verdict_of(ledger).outcome


@on_every_loop
async def test_paced_arrivals_wait_for_nobody():
    """Each is due at a time of its own; a stall shows in those behind it."""
    ledger = Ledger([Budget(0.5, 5.0)])
    stalled = []

    async def body():
        if len(ledger.samples[None]) == 10 and not stalled:
            stalled.append(1)
            time.sleep(0.05)

    await sample_paced(body, ledger, Limits(), Pace(500))
    assert len(ledger.samples[None]) >= 40
    assert sum(seconds > 0.01 for seconds in ledger.samples[None]) >= 10


@on_every_loop
async def test_paced_arrivals_confirm_a_miss_too():
    """After those in flight have ended."""
    ledger = Ledger([TIGHT])
    await sample_paced(anyio.lowlevel.checkpoint, ledger, Limits(pause_s=0.001), Pace(5000))
    assert outcome(ledger) is Outcome.FAIL


@on_every_loop
async def test_an_error_among_paced_arrivals_ends_them_and_arrives_plain():
    """The others are cancelled."""

    async def body():
        await anyio.sleep(0.001)
        raise ValueError("plain")

    with pytest.raises(ValueError, match="plain"):
        await sample_paced(body, Ledger([P95]), Limits(), Pace(1000))


@on_every_loop
async def test_closed_sampling_keeps_so_many_in_flight():
    """Never more, and all of them most of the time."""
    now, seen, ledger = 0, [], Ledger([P95])

    async def body():
        nonlocal now
        now += 1
        seen.append(now)
        await anyio.sleep(0.001)
        now -= 1

    await sample_closed(body, ledger, Limits(), 8)
    assert max(seen) == 8
    assert (outcome(ledger), verdict_of(ledger).arrivals.concurrency) == (Outcome.PASS, 8)


@on_every_loop
async def test_closed_sampling_takes_no_more_samples_than_allowed():
    """However many are in flight."""
    ledger = Ledger([Budget(0.95, 0.002)])

    async def body():
        await anyio.sleep(random.choice([0, 0, 0, 0.003]))  # about as many over as proves nothing soon

    await sample_closed(body, ledger, Limits(samples=40, pause_s=0.001), 10)
    assert len(ledger.samples[None]) <= 2 * 40 + 10


@on_every_loop
async def test_closed_sampling_confirms_a_miss():
    """After those in flight have ended."""
    ledger = Ledger([TIGHT])
    await sample_closed(anyio.lowlevel.checkpoint, ledger, Limits(pause_s=0.001), 10)
    assert outcome(ledger) is Outcome.FAIL


@on_every_loop
async def test_an_error_in_closed_sampling_ends_all_and_arrives_plain():
    """The others are cancelled."""
    ended = []

    async def body():
        try:
            await anyio.sleep(0.001 if len(ended) < 6 else 5)
            if len(ended) >= 5:
                raise ValueError("plain")
        finally:
            ended.append(1)

    begun = time.perf_counter()
    with pytest.raises(ValueError, match="plain"):
        await sample_closed(body, Ledger([P95]), Limits(), 4)
    assert time.perf_counter() - begun < 5


@on_every_loop
async def test_a_user_has_one_run_at_a_time_and_is_late_not_forgiven():
    """Two users, 500 runs a second each, and every run takes four milliseconds: all but the first are late."""
    now, most, ledger = 0, 0, Ledger([TIGHT])

    async def body():
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.004)
        now -= 1

    await sample_paced(body, ledger, Limits(samples=60, pause_s=0.001), Pace(500, users=2))
    assert most == 2
    assert verdict_of(ledger).arrivals.lag_s > 0.004
    assert sorted(ledger.samples[None])[40] > 0.02


@on_every_loop
async def test_more_than_can_be_served_is_overload_and_has_no_p95():
    """200 a second arrive, some 100 are served: the queue grows as long as one looks."""
    busy, ledger = anyio.Lock(), Ledger([Budget(0.95, 5.0)])

    async def body():
        async with busy:
            await anyio.sleep(0.01)

    await sample_paced(body, ledger, Limits(samples=100), Pace(200))
    verdict = verdict_of(ledger)
    assert verdict.arrivals.overloaded
    assert (verdict.outcome, verdict.estimates) == (Outcome.UNDECIDED, ())
    assert verdict.reason == "overloaded: the queue is still growing"


@on_every_loop
async def test_a_missed_budget_is_missed_under_overload_too():
    """Proven is proven."""
    busy, ledger = anyio.Lock(), Ledger([Budget(0.95, 0.001)])

    async def body():
        async with busy:
            await anyio.sleep(0.01)

    await sample_paced(body, ledger, Limits(pause_s=0.001), Pace(200))
    assert outcome(ledger) is Outcome.FAIL


@given(st.lists(st.integers(0, 5), min_size=40, max_size=400))
def test_a_short_queue_is_no_overload(backlog):
    """Whatever its ups and downs."""
    assert not still_growing([min(value, 2) for value in backlog])


@given(st.integers(40, 400), st.integers(10, 200))
def test_a_stall_is_no_overload(n, height):
    """It jumps, and is worked off."""
    backlog = [max(0.0, height - 3.0 * (index - n // 2)) if index >= n // 2 else 0.0 for index in range(n)]
    assert not still_growing(backlog)


@given(st.integers(40, 400), st.floats(0.1, 1))
def test_a_steady_growth_is_overload(n, share):
    """Of each hundred, so many are left behind."""
    assert still_growing([index * share for index in range(n)]) == (0.75 * n * share >= 3)


@given(st.floats(0.1, 1000), st.integers(1, 50), st.integers(0, 100))
def test_users_are_spread_evenly(rate, users, number):
    """The first run of the next round is due when all have come once."""
    pace = Pace(rate, users)
    dues = [pace.due_s(number, user) for user in range(users)]
    assert dues == sorted(dues)
    assert pace.due_s(number + 1) - dues[0] == pytest.approx(1 / rate)
