"""What users write into files of their own is judged in every explored run, and forgotten with the users."""

import asyncio
import gc
from contextlib import contextmanager
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import pytest

from pytest_isolation.phases import writing
from pytest_isolation.phases.recording import recording


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """What is known of files, by the users that wrote them; nothing yet."""
    written = WeakKeyDictionary()
    monkeypatch.setattr(writing, "_written", written)
    with recording():
        yield written


class Shop:
    """Remembers one receipt, which another user may overwrite before it is written."""

    last = ""


@contextmanager
def open_shop():
    yield Shop()


def case(folder, receipt, mode="w"):
    """A user of a shop whose receipt is written into a file of its own."""

    async def scenario(shop, user):
        shop.last = user.secret("receipt")
        await asyncio.sleep(0)
        with (folder / f"{user.id}.txt").open(mode) as file:
            file.write(receipt(user, shop))
        user.observe(user.secret("receipt"))

    return SimpleNamespace(open=open_shop, scenario=scenario)


def of_the_last(_user, shop):
    return shop.last


def its_own(user, _shop):
    return user.secret("receipt")


def test_a_secret_of_another_in_a_file_of_ones_own_is_found(explore, tmp_path):
    """In the very run, and again by its token."""
    [finding, *_], _ = explore(case(tmp_path, of_the_last), users=2, seconds=5)
    assert finding.summary.startswith("the work of user-0")
    assert " wrote into a file the secret 'receipt' of user-0" in finding.summary
    [again, *_], _ = explore(case(tmp_path, of_the_last), users=2, replay=finding.replay)
    assert again.summary == finding.summary


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_file_of_ones_own_secrets_is_no_finding(explore, tmp_path, mode):
    """Though a user who is played with other secrets too adds them to the same file."""
    findings, done = explore(case(tmp_path, its_own, mode), users=2, deviations=0, random_runs=45)
    assert not findings
    assert done.runs["secrecy"] > 0
    assert len({path.name for path in tmp_path.iterdir()}) == 5 + 2 + 1


def test_what_is_known_of_files_goes_with_the_users(explore, tmp_path, known, monkeypatch):
    """And no run leaves anything to be looked at behind."""
    left = []
    conclude = "pytest_isolation.exploring.Explorer._conclude"
    monkeypatch.setattr(conclude, lambda *_: left.extend(dict(one.unread) for one in known.values()))
    explore(case(tmp_path, its_own), users=2, deviations=0, random_runs=5)
    gc.collect()
    assert left == [{}]
    assert not known


def test_where_nothing_is_written_no_run_is_looked_at(explore, tmp_path, monkeypatch):
    """An exploration makes thousands."""

    async def scenario(_shop, user):
        await asyncio.sleep(0)
        user.observe(user.id)

    looked = []
    monkeypatch.setattr("pytest_isolation.exploring.with_files", lambda _user, run: looked.append(run) or run)
    explore(SimpleNamespace(open=open_shop, scenario=scenario), users=2, deviations=0, random_runs=5)
    assert not looked
    explore(case(tmp_path, its_own), users=2, deviations=0, random_runs=5)
    assert looked
