"""Steps a coroutine from suspension point to suspension point, and cuts it at one of them."""

import asyncio
import contextvars
import inspect
import selectors
import socket

import anyio
import pytest

from pytest_isolation.phases.driver import Cut, Driver
from pytest_isolation.phases.network import hold_back

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


async def inner(_user):
    await anyio.sleep(0)
    await anyio.sleep(0.001)


async def play(driver, scenario):
    """In a task of its own, as the crowd does."""
    errors = []

    async def run():
        try:
            await driver.play(scenario, None)
        except Cut as cut:
            errors.append(cut)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
    return errors


async def test_every_suspension_point_is_met_once():
    """With what waits there, the innermost first."""
    driver = Driver()
    await play(driver, inner)
    assert [point.number for point in driver.points] == [1, 2]
    assert {point.frames[-1].code.co_name for point in driver.points} == {"inner"}
    assert driver.points[0].check != driver.points[1].check
    assert "test_driver.py:" in str(driver.points[0])


@pytest.mark.parametrize("by_code", [False, True])
async def test_it_is_cut_at_one_point(by_code):
    """Whatever comes after it does not happen; what is to be done in any case does."""
    counted = Driver()
    done = []

    async def scenario(user):
        try:
            await inner(user)
            done.append("end")
        finally:
            done.append("finally")

    await play(counted, scenario)
    for point in counted.points:
        done.clear()
        driver = Driver(point, by_code=by_code)
        assert await play(driver, scenario)
        assert driver.cut == point
        assert done == ["finally"]


async def test_a_run_that_does_not_come_to_the_point_ends_well():
    counted = Driver()
    await play(counted, inner)

    async def short(_user):
        await anyio.sleep(0)

    driver = Driver(counted.points[1])
    assert await play(driver, short) == []
    assert driver.cut is None


@on_asyncio
async def test_tasks_that_it_starts_are_followed():
    """And the factory of the loop is as it was."""
    driver = Driver()

    async def scenario(user):
        await asyncio.gather(inner(user), inner(user))

    await play(driver, scenario)
    assert len(driver.points) == 5
    assert [point.on_task for point in driver.points].count(True) <= 1
    assert asyncio.get_running_loop().get_task_factory() is None


@on_asyncio
async def test_a_task_that_was_cancelled_before_its_first_step_is_no_coroutine_that_nobody_awaited(recwarn):
    counted = Driver()

    async def scenario(user):
        await asyncio.gather(inner(user), inner(user))

    await play(counted, scenario)
    for point in counted.points:
        await play(Driver(point), scenario)
    assert not list(recwarn)


@on_asyncio
async def test_a_fault_is_raised_where_it_waits_for_the_network():
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)

    async def scenario(_user):
        await reader.read(1)

    async def counting(_user):
        theirs.sendall(b"x")
        await asyncio.sleep(0)
        await reader.read(1)

    try:
        counted = Driver()
        theirs.sendall(b"")
        task = asyncio.ensure_future(play(counted, scenario))
        await asyncio.sleep(0.01)
        theirs.sendall(b"x")
        await task
        [point] = counted.points
        assert point.is_io
        driver = Driver(point, ConnectionResetError("reset"))
        with pytest.raises(ExceptionGroup) as raised:
            await play(driver, scenario)
        assert isinstance(raised.value.exceptions[0], ConnectionResetError)
    finally:
        writer.close()
        theirs.close()


async def test_a_sleep_is_no_io():
    driver = Driver()
    await play(driver, inner)
    if not isinstance(driver.points[0].frames[0], tuple) or "asyncio" in driver.points[0].frames[0].code.co_filename:
        assert not any(point.is_io for point in driver.points if "tasks.py" in point.frames[0].code.co_filename)


async def test_context_variables_are_the_runs_own():
    seen, variable = [], contextvars.ContextVar("variable", default=0)

    async def scenario(_user):
        variable.set(1)
        await anyio.sleep(0)
        seen.append(variable.get())

    await play(Driver(), scenario)
    assert (seen, variable.get()) == ([1], 0)


@on_asyncio
async def test_nothing_arrives_while_anybody_has_something_to_do():
    """And the loop is as it was in the end."""
    loop, (ours, theirs) = asyncio.get_running_loop(), socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    let_go = hold_back(loop)
    try:
        theirs.sendall(b"x")
        for _ in range(20):
            await asyncio.sleep(0)
            assert not reader._buffer
        assert await reader.read(1) == b"x"
    finally:
        let_go()
        writer.close()
        theirs.close()
    assert "select" not in vars(loop._selector)


@on_asyncio
async def test_a_connection_sends_again_when_the_network_is_let_go():
    """TCP_CORK is off."""
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    let_go = hold_back(loop)
    assert isinstance(loop._selector, selectors.BaseSelector)
    let_go()
    connection = writer.get_extra_info("socket")
    if cork := getattr(socket, "TCP_CORK", None):
        assert connection.getsockopt(socket.IPPROTO_TCP, cork) == 0
    writer.close()
    server.close()
    await reader.read()


@on_asyncio
async def test_a_connection_that_nobody_waits_for_just_then_sends_again_too():
    """A driver that asks the loop for each reply anew is out of its selector in between, and is let go all the same."""
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as connection:
        connection.setblocking(False)
        loop.add_reader(connection, lambda: None)
        let_go = hold_back(loop)
        loop.remove_reader(connection)
        let_go()
        if cork := getattr(socket, "TCP_CORK", None):
            assert connection.getsockopt(socket.IPPROTO_TCP, cork) == 0
    server.close()


@on_asyncio
@pytest.mark.parametrize("driven", [False, True])
async def test_a_task_can_be_asked_what_its_coroutine_does(driven):
    """As anyio and debuggers do."""
    told = []

    async def child():
        await asyncio.sleep(0.001)

    async def scenario(_user):
        task = asyncio.create_task(child())
        told.append(inspect.getcoroutinestate(task.get_coro()))
        await asyncio.sleep(0)
        told.append(inspect.getcoroutinestate(task.get_coro()))
        told.append([frame.f_code.co_name for frame in task.get_stack()])
        told.append((task.get_coro().__name__, "child()" in repr(task)))
        await task

    await (play(Driver(), scenario) if driven else scenario(None))
    assert told == [inspect.CORO_CREATED, inspect.CORO_SUSPENDED, ["child"], ("child", True)]


async def test_a_group_of_anyio_may_end_its_own_children():
    """Before they have begun, too."""

    async def scenario(_user):
        async def first():
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(first)
            group.start_soon(anyio.sleep, 10)

    assert await play(Driver(), scenario) == []


@on_asyncio
@pytest.mark.parametrize("who_ends_first", [0, 1])
async def test_runs_that_overlap_leave_the_factory_of_the_loop_as_it_was(who_ends_first):
    """One that was cut may hang while the next one has its turn; each is followed, and once."""
    ends = [asyncio.Event(), asyncio.Event()]
    drivers = [Driver(), Driver()]

    def scenario(number):
        async def wait(_user):
            await asyncio.sleep(0)
            await asyncio.create_task(ends[number].wait())

        return wait

    runs = [asyncio.create_task(play(driver, scenario(number))) for number, driver in enumerate(drivers)]
    await asyncio.sleep(0.01)
    for number in (who_ends_first, 1 - who_ends_first):
        ends[number].set()
        await runs[number]
    assert [len(driver.points) for driver in drivers] == [3, 3]
    assert asyncio.get_running_loop().get_task_factory() is None
