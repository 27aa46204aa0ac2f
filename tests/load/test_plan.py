"""What a plan says, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.errors import MisuseError
from pytest_isolation.load.plan import Operation, Plan, parse_mix


@given(st.floats(0.1, 1e5), st.floats(0.01, 0.99), st.integers(0, 500))
def test_the_phases_fill_the_duration(duration_s, share, burst_users):
    plan = Plan(1, duration_s=duration_s, burst_s=duration_s * share, burst_users=burst_users)
    assert sum(phase.seconds for phase in plan.phases) == pytest.approx(duration_s)


def test_users_come_steadily_then_in_a_burst_then_for_long_then_mixed():
    phases = Plan(1, duration_s=60, burst_s=10, burst_users=200).phases
    assert [(phase.name, phase.seconds, phase.newcomers) for phase in phases] == [
        ("steady", 12.5, 0),
        ("burst", 10, 200),
        ("sustained", 25, 0),
        ("mixed", 12.5, 0),
    ]


def test_without_burst_users_there_is_no_burst():
    assert [phase.name for phase in Plan(1, burst_users=0, burst_s=1000).phases] == ["steady", "sustained", "mixed"]


def test_a_mix_is_read():
    assert parse_mix("chat=6, idle=0.5") == {Operation.CHAT: 6, Operation.IDLE: 0.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no weight"),
        ("chat", "'chat' has no weight: write it as chat=2"),
        ("chta=1", "there is no operation 'chta'; did you mean 'chat'? There are chat, websocket, messages, idle"),
        ("chat=much", "the weight of 'chat' is 'much', which is no number: write chat=2"),
        ("chat=-1", "the weight of 'chat' is -1: a weight is a number ≥ 0"),
        ("chat=nan", "a weight is a number ≥ 0"),
        ("chat=inf", "a weight is a number ≥ 0"),
        ("chat=1,chat=2", "'chat' has two weights"),
        ("chat=0,idle=0", "no operation has a weight > 0"),
    ],
)
def test_a_mix_that_cannot_be_read_says_the_right_form(text, said):
    with pytest.raises(MisuseError) as refused:
        parse_mix(text)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": 0},
        {"burst_users": -1},
        {"duration_s": 0},
        {"pause_s": float("inf")},
        {"timeout_s": float("nan")},
        {"duration_s": 5, "burst_s": 5},
    ],
)
def test_an_impossible_plan_is_refused(wrong):
    with pytest.raises(MisuseError):
        Plan(1, **wrong)
