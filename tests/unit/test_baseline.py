"""Stored samples: what is slower is proven by ranks and medians, and only on the machine that stored them."""

import json
import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.errors import SettingError
from pytest_isolation.latency import baseline


def samples(seed, factor=1.0, count=200):
    """A usual latency of about a millisecond."""
    rng = random.Random(seed)
    return [0.001 * factor * rng.lognormvariate(0, 0.3) for _ in range(count)]


def judged(seed, factor, count=200, same_machine=True):
    """Today's samples, so many times as long, beside stored ones."""
    return baseline.compare(samples(seed), samples(seed + 10_000, factor, count), "t", "", same_machine)


def test_what_is_as_fast_is_hardly_ever_called_slower():
    """No more than the two chances in a thousand, of which the median must take most away."""
    assert sum(judged(seed, 1.0).slower for seed in range(1000)) <= 2


def test_what_takes_a_fifth_longer_is_called_slower():
    """In 19 of 20 sessions at least."""
    assert sum(judged(seed, 1.2).slower for seed in range(200)) >= 190


def test_a_difference_within_the_tolerance_is_none():
    """However certain it is."""
    slower = baseline.compare([1.0, 1.001] * 500, [1.03, 1.031] * 500, "t", "", True)
    assert slower.p < 1e-9
    assert not slower.slower


def test_another_machine_proves_nothing():
    """It may be twice as slow."""
    assert not judged(1, 2.0, same_machine=False).slower


def test_a_few_samples_prove_nothing():
    """The approximation by which the ranks are judged wants more."""
    assert not judged(1, 2.0, count=39).slower
    assert judged(1, 2.0, count=40).slower


def test_the_chance_of_ranks_is_near_the_exact_one():
    """Against all 12,870 ways in which sixteen values can be eight old and eight new ones."""
    values = range(16)
    ways = [(set(new), sum(new)) for new in combinations(values, 8)]
    for new, ranks in ways[::1000]:
        exact = sum(other >= ranks for _, other in ways) / len(ways)
        p = baseline.rank_p([value for value in values if value not in new], sorted(new))
        assert p == pytest.approx(exact, abs=0.01)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_the_chance_is_one(old, new):
    """Also where values are equal; and what rises makes it smaller."""
    p = baseline.rank_p(old, new)
    assert 0 <= p <= 1
    assert baseline.rank_p(old, [value + 1 for value in new]) <= p


def test_what_was_stored_is_read_again(tmp_path):
    """With the machine it was measured on."""
    path = tmp_path / "deep" / "main.json"
    baseline.save(path, {"test_a": {"": [0.1, 0.2], "agent": [0.3]}})
    assert baseline.load(path) == (baseline.identity(), {"test_a": {"": [0.1, 0.2], "agent": [0.3]}})
    assert [file.name for file in path.parent.iterdir()] == ["main.json"]


def test_a_part_of_the_tests_can_be_measured_again(tmp_path):
    """The rest stays."""
    path = tmp_path / "main.json"
    baseline.save(path, {"test_a": {"": [1.0]}, "test_b": {"": [2.0]}})
    baseline.save(path, {"test_b": {"": [3.0]}})
    assert baseline.load(path)[1] == {"test_a": {"": [1.0]}, "test_b": {"": [3.0]}}


def test_what_another_machine_has_stored_is_replaced(tmp_path):
    """Half of one and half of the other would be compared with neither."""
    path = tmp_path / "main.json"
    baseline.save(path, {"test_a": {"": [1.0]}})
    stored = json.loads(path.read_text())
    stored["machine"]["cpu"] = "another"
    path.write_text(json.dumps(stored))
    baseline.save(path, {"test_b": {"": [3.0]}})
    assert baseline.load(path)[1] == {"test_b": {"": [3.0]}}


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    """And nothing beside it."""
    path = tmp_path / "main.json"
    baseline.save(path, {"test_a": {"": [1.0]}})

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space"):
        baseline.save(path, {"test_a": {"": [2.0]}})
    assert baseline.load(path)[1] == {"test_a": {"": [1.0]}}
    assert [file.name for file in tmp_path.iterdir()] == ["main.json"]


MACHINE = {"cpu": "x"}
DAMAGED = [
    "",
    "[]",
    "{",
    '{"version": 2, "machine": {}, "samples": {}}',
    '{"version": 1, "samples": {}}',
    '{"version": 1, "machine": {}, "samples": []}',
    '{"version": 1, "machine": {}, "samples": {"t": []}}',
    '{"version": 1, "machine": {}, "samples": {"t": {"": []}}}',
    '{"version": 1, "machine": {}, "samples": {"t": {"": ["fast"]}}}',
    '{"version": 1, "machine": {}, "samples": {"t": {"": [NaN]}}}',
    '{"version": 1, "machine": {}, "samples": {"t": {"": [true]}}}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, text):
    """With its path and how to make a new one, instead of failing in the middle of a comparison."""
    path = tmp_path / "main.json"
    path.write_text(text)
    with pytest.raises(SettingError, match=r"the baseline 'main'.*main\.json.*--isolation-save=main"):
        baseline.load(path)


def test_one_that_is_not_there_is_named_with_those_that_are(tmp_path):
    """A slip of the pen is seen at once."""
    baseline.save(tmp_path / "main.json", {"t": {"": [1.0]}})
    with pytest.raises(SettingError, match=r"no baseline 'mian' .*there are: main\); make one with"):
        baseline.load(tmp_path / "mian.json")
