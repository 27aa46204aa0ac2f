"""Checked by mypy --strict, not run: what a user writes has the types that a user expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, assert_type

import pytest

if TYPE_CHECKING:
    from pytest_isolation import Backend, Isolation, Latency, Memory, Report, User


def a_backend_satisfies_the_protocol_by_its_shape() -> Backend:
    from reference_impl import create_backend

    return create_backend()


@pytest.mark.isolation(users=100)
async def a_scenario(user: User) -> None:
    assert_type(user.id, str)
    assert_type(user.secret("note"), str)
    assert_type(user.number("amount"), int)
    assert_type(user.observe([1]), list[int])
    assert_type(user.track([1]), list[int])
    assert_type(user.index, int)
    await user.http.get("/notes")
    async with user.websocket("/ws", subprotocols=["chat"]) as socket:
        await socket.send("hello")


@pytest.mark.latency(p95_ms=10)
async def a_measurement(latency: Latency) -> None:
    with latency.span("part"):
        pass
    async with latency.span("part"):
        pass
    latency.record(0.5, span="part")

    async def part() -> None: ...

    await latency.measure(part)


@pytest.mark.memory(growth_kb=10, per_object_kb=5)
def a_weighing(memory: Memory) -> None:
    assert_type(memory.weigh({"user": 3}, shared=[memory]), int)


def several_users(users: Callable[[int], list[User]]) -> None:
    alice, bob = users(2)
    alice.share("note", bob)


async def the_engine_from_code(isolation: Isolation) -> None:
    async def scenario(user: User) -> None: ...

    report = await isolation.check(scenario, users=50, fail=False)
    assert_type(report, Report)
    assert_type(report.runs, int)
