"""What limits the time of a run can be made to run out."""

import pytest
import trio

from pytest_isolation.phases.expiry import Timers


def test_on_trio_the_time_is_over_at_once():
    """And not when trio looks at its deadlines, which is after it has dealt with what has arrived."""

    async def main():
        timers = Timers(lambda _: True)
        with trio.CancelScope(), trio.fail_after(60) as outer, trio.move_on_after(1) as inner:
            timers.expire()
            await trio.lowlevel.checkpoint_if_cancelled()
            pytest.fail("it went on")
        assert inner.cancelled_caught
        assert not outer.cancel_called
        assert trio.current_time() >= inner.deadline

    trio.run(main)
