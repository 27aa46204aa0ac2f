"""What is ours and what is a library's is told by the folder, not by how its name begins."""

import inspect
import sysconfig
import types
from pathlib import Path

import pytest

import pytest_isolation
from pytest_isolation.phases.driver import Driver
from pytest_isolation.phases.points import Point
from pytest_isolation.profile import bottlenecks
from pytest_isolation.users.whereabouts import caller, is_library

OURS = Path(pytest_isolation.__file__).parent
LIBRARIES = Path(sysconfig.get_path("platstdlib"))


def run_in(file, source):
    """The names that a source defines, as if it stood in that file."""
    names = {"caller": caller}
    exec(compile(source, str(file), "exec"), names)
    return names


@types.coroutine
def suspended():
    yield


@pytest.mark.parametrize("folder", [OURS, LIBRARIES])
def test_a_package_whose_name_begins_with_that_of_ours_is_not_ours(folder):
    """A team calls its plugin pytest_isolation_shop."""
    theirs = f"{folder}_shop/app.py"
    assert run_in(theirs, "def ask():\n    return caller()")["ask"]()[0] == theirs
    assert not is_library(theirs)


def test_what_is_ours_is_passed_over():
    here = inspect.currentframe().f_code.co_filename
    assert run_in(OURS / "app.py", "def ask():\n    return caller()")["ask"]()[0] == here


@pytest.mark.parametrize(("name", "shown"), [("pytest_isolation_shop", ["serve"]), ("pytest_isolation", [])])
def test_its_frames_are_shown_where_a_user_waits(name, shown):
    """Without them a cut would have nowhere to be."""
    serve = run_in(OURS.with_name(name) / "app.py", "async def serve(wait):\n    await wait()")["serve"]
    waiting, driver = serve(suspended), Driver()
    waiting.send(None)
    driver.meet(waiting, None)
    waiting.close()
    [point] = driver.points
    assert [frame.code.co_name for frame in point.frames if frame.code.co_name == "serve"] == shown
    assert isinstance(point, Point)


def test_its_functions_count_as_the_applications_in_a_profile():
    assert not str(OURS.with_name("pytest_isolation_shop") / "app.py").startswith(bottlenecks._OURS)
    assert str(OURS / "app.py").startswith(bottlenecks._OURS)
