"""What a marker says of faults, read before anything is played."""

import asyncio

import anyio
import pytest
import trio

from pytest_isolation.cuts import read_cuts


@pytest.mark.parametrize(
    "kind", [asyncio.timeout, asyncio.wait_for, anyio.fail_after, anyio.move_on_after, trio.fail_after, trio.move_on_at]
)
def test_any_way_of_limiting_the_time_lets_it_run_out(kind):
    """Those of one library are those of another."""
    _, [fault] = read_cuts("isolation", None, [kind])
    assert (fault.name, fault.make) == ("timeout", None)


def test_the_time_runs_out_in_one_sweep_however_often_it_is_named():
    """All of them expire in the same places."""
    _, faults = read_cuts("isolation", None, [asyncio.timeout, ConnectionResetError, anyio.fail_after])
    assert [fault.name for fault in faults] == ["ConnectionResetError", "timeout"]


def test_a_function_of_that_name_may_make_an_exception():
    """As long as it is of none of these libraries."""

    def timeout():
        return OSError("mine")

    _, [fault] = read_cuts("isolation", None, [timeout])
    assert fault.name == "OSError"
