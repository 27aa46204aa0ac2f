"""What a user imports by name."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

import pytest_isolation


@pytest.mark.parametrize("name", pytest_isolation.__all__)
def test_every_public_name_can_be_imported(name):
    """Late, but for certain."""
    assert getattr(pytest_isolation, name).__name__ == name


def test_the_public_names_are_sorted_and_listed():
    """For people and for editors."""
    assert sorted(pytest_isolation.__all__) == pytest_isolation.__all__
    assert set(pytest_isolation.__all__) < set(dir(pytest_isolation))
    assert {name for names in pytest_isolation._HOMES.values() for name in names} == set(pytest_isolation.__all__)


def test_any_other_name_is_an_attribute_error():
    """As of any module."""
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        pytest_isolation.nothing  # noqa: B018


def test_there_is_one_version():
    """In the package, in its metadata, in pyproject.toml and at the top of the changelog."""
    root = Path(__file__).parents[2]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert declared == pytest_isolation.__version__ == importlib.metadata.version("pytest-isolation")
    assert f"## {declared}" in (root / "CHANGELOG.md").read_text()
