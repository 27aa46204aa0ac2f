"""The corpus: every fault is found, its finding replays, and nothing is found on correct backends."""

import pytest
from exploration.corpus import CONTROLS, FAULTS

from pytest_isolation.phases.strategies import Systematic

# What takes more than one deviation is left to chance.
DEEP = {"EmitterIsUsedByLateTask", "ClientIsMadeByFirst", "SlotOfTheGoneIsReused", "OneRunsWhileAnotherWaits"}


FOUND = {}


def found(name, explore):
    """What the search finds, which is looked for once."""
    if name not in FOUND:
        FOUND[name] = explore(FAULTS[name])
    return FOUND[name]


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_found_and_its_finding_replays(name, explore):
    """Within one deviation, or else within the random runs after that; each time it is played again."""
    findings, done = found(name, explore)
    assert findings, done
    assert not done.notes, "it showed in all replays"
    deviations = findings[0].replay.count("=")
    assert deviations <= (3 if name in DEEP else 1)


@pytest.mark.parametrize("name", FAULTS)
def test_a_token_plays_the_same_finding_twenty_times(name, explore):
    """The same users, the same secrets, the same steps."""
    [first, *_], _ = found(name, explore)
    seen = []
    for _ in range(20):
        [again, *_], _ = explore(FAULTS[name], replay=first.replay)
        seen.append((again.kind, again.summary, again.channel, again.seen, again.steps))
    assert seen == [(first.kind, first.summary, first.channel, first.seen, first.steps)] * 20


@pytest.mark.soak
@pytest.mark.parametrize("name", FAULTS)
def test_a_finding_has_few_deviations_wherever_few_suffice(name, explore):
    """All schedules with up to two are tried: where one of them shows the fault, what is reported takes no more."""
    [shrunk, *_], _ = found(name, explore)
    least, done = explore(FAULTS[name], deviations=2, seconds=3600, random_runs=0)
    assert least or done.exhausted
    assert not least or shrunk.replay.count("=") <= least[0].replay.count("=")


RANDOM = 100


@pytest.mark.parametrize("name", CONTROLS)
def test_nothing_is_found_on_a_correct_backend(name, explore):
    """In all runs with one deviation and some random ones: 2,000 and more for all of them together."""
    findings, done = explore(CONTROLS[name], random_runs=RANDOM)
    assert findings == []
    assert done.exhausted.startswith("all schedules with ≤ 1 deviation, 3 users, ")
    assert done.runs["exploration"] // 3 >= 2_000 / len(CONTROLS)


def test_a_level_that_was_not_played_to_its_end_is_said_to_be_unfinished(explore):
    """What was exhausted before it counts, and no run of it."""
    _, done = explore(CONTROLS["ContextVariable"], seconds=1e-6)
    assert not done.exhausted
    assert done.notes[0].startswith("the time was over (1e-06 s) after 1 run, before all with ≤ 1 deviation")


@pytest.mark.soak
def test_going_on_from_the_same_steps_once_loses_no_fault(explore, monkeypatch):
    """With two deviations the same is found as without the reduction, and a correct backend exhausted in fewer runs."""

    def searched():
        cases = {**FAULTS, "correct": CONTROLS["PoolIsReset"]}
        done = {name: explore(case, deviations=2, seconds=600, random_runs=0) for name, case in cases.items()}
        kinds = {name: sorted({finding.kind for finding in findings}) for name, (findings, _) in done.items()}
        return kinds, sum(made.runs["exploration"] for _, made in done.values())

    kinds, runs = searched()
    monkeypatch.setattr(Systematic, "_is_known", lambda *_: False)
    all_kinds, all_runs = searched()
    assert kinds == all_kinds
    assert runs < all_runs


@pytest.mark.soak
def test_nothing_is_found_in_fifty_thousand_runs(explore):
    """With two deviations, and then by chance; the correct backends together."""
    runs = 0
    for name, control in CONTROLS.items():
        for seed in range(2):
            findings, done = explore(control, seed=seed, deviations=2, seconds=600, random_runs=1500)
            assert findings == [], name
            assert done.exhausted, name
            runs += done.runs["exploration"] // 3
    assert runs >= 50_000
