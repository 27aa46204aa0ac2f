"""Whoever comes after a cut has its turn in any case, with or without credentials, and is given time before it is accused."""

import json
import re

import pytest

# A client that swallows the cancellation, as asyncio.wait_for did before Python 3.12, and holds the only slot on and on.
SHIELDED = """
    import anyio, pytest

    @pytest.fixture
    def anyio_backend():
        return "trio"

    @pytest.fixture
    def slots():
        return anyio.Semaphore({slots})

    @pytest.mark.anyio
    @pytest.mark.isolation(users=1)
    async def test_it(user, slots):
        async with slots:
            try:
                await anyio.sleep(0)
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True), anyio.move_on_after(1.5):
                    await anyio.sleep_forever()
                raise
            user.observe(user.id)
"""
HANGING = """
    import asyncio, pytest

    @pytest.fixture
    def slots():
        return asyncio.Semaphore({slots})

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=1)
    async def test_it(user, slots):
        async with slots:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                await asyncio.Event().wait()
            user.observe(user.id)
"""
# What one user left is there for the next who brings nothing itself; who brings something covers it.
REMEMBERING = """
    import asyncio, sys, pytest

    class App:
        current = None

        async def handle(self, credentials):
            self.current = credentials or self.current
            try:
                await asyncio.sleep(0)
                return self.current
            finally:
                if {resets}:
                    self.current = None

    @pytest.fixture
    def app():
        return App()

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=1, cancel=True, anonymous={share})
    async def test_it(user, app):
        seen = await app.handle(None if user.anonymous else user.secret("name"))
        user.observe([seen, user.id])
"""
# Correct: it waits before it connects again.
BACKING_OFF = """
    import asyncio, pytest

    class Client:
        is_broken = False

        async def get(self, text):
            if self.is_broken:
                await asyncio.sleep({pause_s})
                self.is_broken = False
            try:
                await asyncio.sleep(0)
                return text
            except BaseException:
                self.is_broken = True
                raise

    @pytest.fixture
    def client():
        return Client()

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=1)
    async def test_it(user, client):
        user.observe(await client.get(user.secret()))
"""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("pytest_isolation.playbook._ALONE_PATIENCE_S", 0.4)
    return "--isolation-max-seconds=0.1"


def test_a_cancelled_user_who_never_ends_and_holds_the_only_slot_starves_others(suite, impatient):
    """The one who comes next is not kept waiting for its end; the token plays it again."""
    source = HANGING.format(slots=1)
    result = suite(source, impatient)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "STARVED  probe-00 never got to the end*",
            "  phase     cancel sweep 1/1: user-01 was cancelled while it waited in test_it.py:*",
            "  seen *still waiting after 0.4 s, at test_it.py:*, and after 1.2 s when it was played again*",
        ]
    )
    token = re.search(r"--isolation-replay=(\S+)", result.stdout.str())[1]
    suite(source, impatient, f"--isolation-replay={token}").assert_outcomes(failed=1)


def test_so_it_is_on_trio_where_a_clean_up_is_shielded(suite, impatient):
    """There a cancellation cannot be swallowed."""
    result = suite(SHIELDED.format(slots=1), impatient, "-p", "no:asyncio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*STARVED  probe-00 never got to the end*"])


def test_one_who_never_ends_and_keeps_nobody_waiting_is_only_said(suite, impatient):
    """There is a second slot."""
    result = suite(HANGING.format(slots=2), impatient)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*cancel sweep 1/1: *, and has not ended within 0.4 s; who came after it did not notice*"]
    )


def test_what_a_cut_user_left_for_those_without_credentials_is_found(suite):
    """A second probe has none, where some of the users have none."""
    result = suite(REMEMBERING.format(resets="sys.exc_info()[0] is None", share=0.25))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  probe-* received the secret 'name' of user-01",
            "  phase     cancel sweep 1/1: user-01 was cancelled while it waited in test_it.py:*",
            "  expected  what probe-* sees alone: *None*",
        ]
    )


@pytest.mark.parametrize(("share", "runs"), [(0.25, 4), (0.0, 3)])
def test_a_sweep_costs_a_run_more_at_each_point_where_some_are_anonymous(suite, pytester, share, runs):
    """One that counts the points; at each one who is cut, and who comes next."""
    suite(REMEMBERING.format(resets=True, share=share), "--isolation-report=r.json").assert_outcomes(passed=1)
    [result] = json.loads((pytester.path / "r.json").read_text())["results"]
    assert [phase["runs"] for phase in result["phases"] if phase["phase"] == "cancel sweep"] == [runs]


def test_a_client_that_waits_before_it_connects_again_is_not_accused(suite, impatient):
    """It is played again with three times the patience; a line says so."""
    result = suite(BACKING_OFF.format(pause_s=0.45), impatient)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*suspected: probe-00 never got to the end*; not again *, and waited for up to 1.2 s instead of 0.4 s*"]
    )


def test_whoever_gives_a_test_more_time_has_more_patience(suite, impatient):
    """By --isolation-max-seconds: then nothing is suspected at all."""
    result = suite(BACKING_OFF.format(pause_s=0.45), "--isolation-max-seconds=1.5")
    result.assert_outcomes(passed=1)
    assert "suspected" not in result.stdout.str()


@pytest.mark.parametrize("more", ["", ", cancel=True"])
def test_a_sweep_with_too_many_points_says_what_to_do(suite, monkeypatch, more):
    """More time would not help."""
    monkeypatch.setattr("pytest_isolation.phases.sweeps.MOST_POINTS", 2)
    source = f"""
        import asyncio, pytest

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=1{more})
        async def test_it(user):
            for _ in range(3):
                await asyncio.sleep(0)
            user.observe(user.id)
    """
    result = suite(source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: 2 of 3 points, and 2 points are the most that one sweep takes: divide *"])


# Whoever is cut makes {after} happen to those who come.
MOODY = """
    import asyncio, pytest

    cuts = 0

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=1)
    async def test_it(user):
        global cuts
        {before}
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            cuts += 1
            raise
        if cuts == 1 and user._label == "probe-00":
            await asyncio.sleep(0.8)
        user.observe([user.id, {seen}])
"""


def test_what_shows_when_it_is_played_again_has_to_be_there_three_times(suite, impatient):
    """One starves, and later ones see something else: the first is suspected, the second is a finding."""
    result = suite(MOODY.format(before="", seen="cuts > 1 and user._label.startswith('probe')"), impatient)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "DIFFERENT  probe-01 saw another response than alone",
            "*test_it: suspected: probe-00 never got to the end*; not again *, and waited for up to 1.2 s instead of 0.4 s",
        ]
    )
    assert "STARVED" not in result.stdout.str()


def test_who_starves_once_where_users_then_go_another_way_is_only_suspected(suite, impatient):
    """Nobody can be cut there any more, and nobody starves with more patience."""
    before = "if cuts and user._label[:5] != 'probe': return user.observe([user.id, False])"
    result = suite(MOODY.format(before=before, seen=False), impatient)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it: suspected: probe-00 never got to the end*"])
