"""What a search accuses of, what it says of itself, and what it does with a token."""

import asyncio
import threading

import pytest
from exploration.corpus import CONTROLS, FAULTS, Case

from pytest_isolation.errors import TokenError


@pytest.mark.parametrize("name", ["TwoTriesTakeTime", "ThreeTriesTakeTime", "RaceOfOwnTasks"])
def test_what_a_user_does_to_itself_is_nobody_elses_doing(name, explore):
    """However many deviations it takes: whoever is accused has played its own part of the run alone before."""
    findings, _ = explore(CONTROLS[name], deviations=0, random_runs=120)
    assert findings == []


@pytest.mark.parametrize(
    "token",
    [
        "explore:3:42:fifo:2=1:00000000",
        "explore:3:42:fifo:400=1:de7f244d",
        "explore:3:42:fifo:2=9:de7f244d",
    ],
)
def test_a_token_of_another_run_is_refused(token, explore):
    """Whose check is another, whose decision never comes, or has fewer options by now."""
    with pytest.raises(TokenError, match="the run has no such decisions any more as explore:3:42:fifo:"):
        explore(FAULTS["PoolIsNotResetOnCancel"], replay=token)


def test_a_token_whose_schedule_shows_nothing_any_more_says_so(explore):
    """That is how a fault is seen to be mended."""
    [first, *_], _ = explore(FAULTS["PoolIsNotResetOnCancel"])
    findings, done = explore(CONTROLS["PoolIsReset"], replay=first.replay)
    assert findings == []
    assert done.notes == ["the schedule of the token was played again, and nothing was found in it"]


def test_what_was_exhausted_is_qualified_where_threads_had_a_part_in_it(explore):
    """Their order is not the loop's."""

    class Threaded:
        async def handle(self, user):
            loop = asyncio.get_running_loop()
            answer = loop.create_future()
            threading.Thread(target=loop.call_soon_threadsafe, args=(answer.set_result, user.secret())).start()
            return await answer

    _, done = explore(Case("Threaded", Threaded), deviations=0, random_runs=2)
    assert "as far as the order was the loop's: threads and sockets had a part in it" in done.exhausted
    _, done = explore(CONTROLS["LockAroundAll"], deviations=0, random_runs=2)
    assert done.exhausted == "all schedules with ≤ 0 deviations, 3 users, 2 runs"
