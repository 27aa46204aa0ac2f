"""Presets, and what the environment changes in them."""

from dataclasses import fields

import pytest

from reference_impl.__main__ import _settings
from reference_impl.settings import BALANCED, PRESETS, Settings, from_environment, preset


def test_balanced_is_the_default():
    """Without any variable."""
    assert from_environment({}) == BALANCED == preset("balanced")


def test_minimal_has_every_optimisation_off():
    """And is the same otherwise."""
    minimal = preset("minimal")
    switches = [field.name for field in fields(Settings) if isinstance(getattr(BALANCED, field.name), bool)]
    assert not any(getattr(minimal, name) for name in switches)
    assert minimal.sample_rate == 1.0


def test_the_environment_picks_a_preset_and_changes_single_fields():
    """Other variables are nobody's business here."""
    settings = from_environment(
        {
            "REFERENCE_PRESET": "maximum",
            "REFERENCE_EMITTERS_LIMIT": "300",
            "REFERENCE_LAZY_START": "off",
            "REFERENCE_SAMPLE_RATE": "0.5",
            "REFERENCE_DATABASE_URL": "sqlite+aiosqlite:///kept.db",
            "PATH": "/bin",
        }
    )
    assert (settings.batch_events, settings.emitters_limit, settings.lazy_start) == (True, 300, False)
    assert (settings.sample_rate, settings.database_url) == (0.5, "sqlite+aiosqlite:///kept.db")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"REFERENCE_PRESET": "fast"}, "no preset 'fast'; there are minimal, balanced, maximum"),
        ({"REFERENCE_EMITER_LIMIT": "3"}, "REFERENCE_EMITER_LIMIT: there is no such setting; there are"),
        ({"REFERENCE_EMITTERS_LIMIT": "many"}, "REFERENCE_EMITTERS_LIMIT='many': it takes a whole number"),
        ({"REFERENCE_SAMPLE_RATE": "x"}, "REFERENCE_SAMPLE_RATE='x': it takes a number"),
        ({"REFERENCE_LAZY_START": "maybe"}, "REFERENCE_LAZY_START='maybe': it takes one of"),
        ({"REFERENCE_SAMPLE_RATE": "2"}, "sample_rate is a share from 0 to 1, not 2.0"),
        ({"REFERENCE_EMITTERS_LIMIT": "3"}, "emitters_ready ≤ emitters_limit"),
        ({"REFERENCE_AGENTS_PER_USER": "0"}, "agents_per_user is at least 1, not 0"),
        ({"REFERENCE_DATABASE_POOL_SIZE": "0"}, "database_pool_size is at least 1, not 0"),
        ({"REFERENCE_DATABASE_MAX_OVERFLOW": "-1"}, "database_max_overflow is at least 0, not -1"),
        ({"REFERENCE_AGENT_TIMEOUT_S": "inf"}, "agent_timeout_s is a number of seconds > 0, not inf"),
    ],
)
def test_what_is_impossible_is_refused_with_the_right_form(environment, said):
    """At the start, not at the four hundredth request."""
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        from_environment(environment)


def test_a_preset_of_the_command_line_leaves_the_other_variables_alone(monkeypatch):
    """It takes the place of the environment's preset only."""
    monkeypatch.setenv("REFERENCE_PRESET", "minimal")
    monkeypatch.setenv("REFERENCE_INBOX_LIMIT", "7")
    settings = _settings("maximum")
    assert (settings.batch_events, settings.inbox_limit) == (True, 7)
    assert not _settings(None).pool_emitters


def test_presets_cannot_be_changed():
    """They belong to every backend of the process."""
    with pytest.raises(TypeError):
        PRESETS["mine"] = BALANCED
    with pytest.raises(AttributeError):
        BALANCED.emitters_limit = 1
