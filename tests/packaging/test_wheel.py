"""What is installed from the wheel works anywhere, with nothing of this repository in reach."""

import configparser
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def run(*command, cwd, **options):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        ROOT,
        cwd=folder,
    )
    [built] = folder.glob("*.whl")
    return built


def needed(requirements, extra):
    """The distributions that these requirements lead to, of those that are here."""
    found, waiting = {}, [(Requirement(one), extra) for one in requirements]
    while waiting:
        one, extra = waiting.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        for each in ("", *one.extras):
            if (one.name, each) not in found:
                found[one.name, each] = metadata.distribution(one.name)
                waiting += [(Requirement(more), each) for more in found[one.name, each].requires or ()]
    return found.values()


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An environment with the wheel and what it says that it needs, by links, and no other plugin."""
    folder = tmp_path_factory.mktemp("linked")
    venv.create(folder, with_pip=False)
    [site] = folder.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    [own] = site.glob("*.dist-info")
    for one in needed(metadata.PathDistribution(own).requires, "reference"):
        for name in {path.parts[0] for path in one.files} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(one.locate_file(name))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment as pip makes it, with the wheel and what it needs, and no other plugin."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[reference]", cwd=folder)
    return python


def test_the_wheel_holds_both_packages_and_nothing_else(wheel):
    """A flat layout ships one package, or tests and benchmarks too, if nobody looks."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "pytest_isolation",
        "reference_impl",
        "pytest_isolation-0.1.0.dist-info",
    }
    for needed in (
        "pytest_isolation/py.typed",
        "reference_impl/py.typed",
        "reference_impl/static/index.html",
        "pytest_isolation/reports/schema/report-1.json",
    ):
        assert needed in names
    sources = {
        str(path.relative_to(ROOT))
        for package in ("pytest_isolation", "reference_impl")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sources <= set(names)


def test_the_entry_point_is_named_as_its_module(wheel):
    """So that `-p` and `pytest_plugins` find the plugin that is registered already; and there is one command."""
    text = zipfile.ZipFile(wheel).read("pytest_isolation-0.1.0.dist-info/entry_points.txt").decode()
    entry_points = configparser.ConfigParser()
    entry_points.read_string(text)
    assert {name: dict(entry_points[name]) for name in entry_points.sections()} == {
        "pytest11": {"pytest_isolation.plugin": "pytest_isolation.plugin"},
        "console_scripts": {"isolation": "pytest_isolation.cli:main"},
    }


def test_it_needs_pytest_and_anyio_and_nothing_else():
    """It lives inside other people's environments."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["anyio>=4", "pytest>=8"]
    assert set(project["optional-dependencies"]) == {
        "reference",
        "postgres",
        "valkey",
        "asgi",
        "otel",
        "load",
        "profile",
        "memory",
        "html",
        "all",
    }


def test_the_conformance_suite_runs_from_the_installed_wheel(python, tmp_path):
    """From a folder that knows nothing of it, without pytest-asyncio."""
    output = run(
        python,
        "-m",
        "pytest",
        "--pyargs",
        "pytest_isolation.conformance",
        "--isolation-users=20",
        "-k",
        "test_agent or (own_data_only and 100-users)",
        "-W",
        "error",
        cwd=tmp_path,
    )
    assert "2 passed" in output
    summary = next(line for line in output.splitlines() if line.startswith("1 budget: "))
    assert "1 scenario played" in summary
    assert " over" not in summary  # on a machine that is busy with other tests one may be undecided
    assert "plugins: isolation-0.1.0, anyio-" in output or "isolation-0.1.0" in output


OLDEST = ("pytest==8.0.0", "anyio==4.0.0", "sqlalchemy[asyncio]==2.0.20", "aiosqlite==0.19.0")


@pytest.mark.soak
def test_it_works_with_the_oldest_versions_that_it_admits(wheel, tmp_path):
    """Ranges are promises."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[reference]", *OLDEST, cwd=tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nisolation_seed = 5\nisolation_report = r.json\n")
    command = (python, "-m", "pytest", "--pyargs", "pytest_isolation.conformance", "--isolation-budget")
    output = run(*command, "--isolation-users=20", cwd=tmp_path)
    assert "16 passed" in output
    assert (tmp_path / "r.json").exists()


@pytest.mark.soak
def test_the_conformance_suite_tests_a_backend_from_the_folder_it_is_started_in(installed, tmp_path):
    """As uvicorn finds an application."""
    (tmp_path / "shop.py").write_text(
        "from reference_impl import ReferenceBackend\ndef create(): return ReferenceBackend()\n"
    )
    command = (installed, "-m", "pytest", "--pyargs", "pytest_isolation.conformance", "--isolation-backend=shop:create")
    output = run(*command, "-k", "own_data_only", "--isolation-users=5", "-p", "no:cacheprovider", cwd=tmp_path)
    assert "2 passed" in output


def test_no_text_names_a_registry_or_a_path_of_a_machine():
    """Pins are names and versions."""
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert all("==" in line and "/" not in line and ":" not in line for line in constraints)
