"""--compare: this backend beside another one, in turn."""

import pytest


def test_a_slower_one_is_seen_and_fails_nothing(profile):
    """It is a table of before and after; targets decide."""
    both = ("--backend", "profiling.kiosk:Kiosk", "--compare", "profiling.kiosk:SlowToOpen")
    ended = profile("--factory", "--iterations", "20", *both)
    assert ended.code == 0, ended.out
    [comparison] = [each for result in ended.report["results"] for each in result["comparisons"]]
    assert comparison["name"] == "factory, profiling.kiosk:SlowToOpen"
    assert (comparison["outcome"], comparison["pairs"]) == ("pass", 20)
    assert comparison["ratio"] < 0.5
    assert comparison["old_s"] > 2 * comparison["new_s"]
    assert "this / that (99 % interval)" in ended.out


@pytest.mark.soak
def test_every_area_in_this_process_is_compared(profile):
    ended = profile("--all", "--iterations", "20", "--compare", "naive")
    names = [each["name"] for result in ended.report["results"] for each in result["comparisons"]]
    assert names == ["factory, naive", "websocket, naive", "database, naive", "e2e, naive"]


@pytest.mark.parametrize("preset", ["minimal", "balanced", "maximum"])
def test_a_preset_of_the_reference_backend_goes_by_its_name(profile, preset, monkeypatch):
    """And is not left in the environment."""
    monkeypatch.delenv("REFERENCE_PRESET", raising=False)
    ended = profile("--factory", "--iterations", "20", "--compare", preset)
    assert [each["name"] for result in ended.report["results"] for each in result["comparisons"]] == [
        f"factory, {preset}"
    ]
    assert "REFERENCE_PRESET" not in __import__("os").environ


def test_the_other_one_may_fail(profile):
    """Which is said, and fails the profile: what was asked for was not measured."""
    ended = profile("--factory", "--backend", "profiling.kiosk:Kiosk", "--compare", "profiling.kiosk:Broken")
    assert ended.code == 1
    assert "factory, beside profiling.kiosk:Broken: LookupError: no agent 'clerk' any more" in ended.out
