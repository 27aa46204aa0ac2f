"""What was found counts, whatever the test does afterwards, and whenever it was seen."""

import json
import signal
import subprocess
import sys
import time

import pytest

LEAK = """
    import pytest

    def test_it(users):
        alice, bob = users(2)
        bob.observe(alice.secret())
        {then}
"""


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("pytest.skip('no more')", "*The test itself ended with Skipped: no more"),
        ("pytest.xfail('known')", "*The test itself ended with XFailed: known"),
        ("pytest.fail('mine')", "*The test itself ended with Failed: mine"),
        ("pytest.importorskip('there_is_no_such_module')", "*The test itself ended with Skipped: could not import*"),
    ],
)
def test_a_leak_before_another_outcome_fails_the_test(suite, then, said):
    """Skipped or expected to fail, it would be green."""
    result = suite(LEAK.format(then=then))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  user-01 received the secret 'secret' of user-00", said])


def test_a_marker_that_expects_a_failure_is_met_by_a_leak(suite):
    """That is what it says."""
    suite(LEAK.format(then="").replace("def test_it", "@pytest.mark.xfail\n    def test_it")).assert_outcomes(xfailed=1)


def test_a_leak_between_users_who_are_alone_counts_though_one_of_them_skips(suite):
    """The fourth is rate limited; the second has seen the first one's message."""
    result = suite(
        """
        import pytest

        seen = []

        @pytest.mark.isolation(users=5)
        def test_it(user):
            seen.append(user.secret("dm"))
            user.observe(list(seen))
            if len(seen) == 4:
                pytest.skip("rate limited")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  solo-01 received the secret 'dm' of solo-00", "*more of this kind: solo-03"])


def test_what_a_listener_hears_after_the_run_of_its_user_counts(suite):
    """It outlives the run, and the backend broadcasts to every socket."""
    result = suite(
        """
        import asyncio
        import pytest

        sockets = []

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=6)
        async def test_it(user):
            inbox = asyncio.Queue()
            sockets.append(inbox)

            async def listen():
                while True:
                    user.observe(await inbox.get(), "socket")

            listener = asyncio.create_task(listen())
            user.observe(user.id)
            await asyncio.sleep(0)
            if user.index == 5:
                await asyncio.sleep(0.02)
                sockets[-6].put_nowait(user.secret("dm"))
                await asyncio.sleep(0.02)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["LEAK  user-00 received the secret 'dm' of user-05", "*after the run of its user had ended*"]
    )


def test_what_a_fixture_sees_when_it_is_torn_down_counts(suite):
    """As an error of the teardown."""
    result = suite(
        """
        import pytest

        @pytest.fixture
        def pair(users):
            alice, bob = users(2)
            yield alice, bob
            bob.observe(alice.secret("dm"), "goodbye")

        def test_it(pair):
            pair[1].observe(pair[1].id)
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["LEAK  user-01 received the secret 'dm' of user-00"])


CHECK = """
    import asyncio
    import pytest

    @pytest.mark.asyncio
    async def test_it(isolation):
        seen = []

        async def fine(user):
            user.observe(user.id)

        async def leaky(user):
            seen.append(user.secret("dm"))
            user.observe(list(seen))
            await asyncio.sleep(0.05)

        async def impatient(check):
            try:
                async with asyncio.timeout(0.08):
                    await check
            except TimeoutError:
                pass

        {body}
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("isolation.check(leaky, users=3)", "*was called 1 times, and 1 of them did not get to the end*"),
        (
            "await isolation.check(fine, users=3); isolation.check(leaky, users=3)",
            "*isolation.check was called 2 times, and 1 of them did not get to the end before the test did*",
        ),
        (
            "task = asyncio.ensure_future(isolation.check(leaky, users=3)); await asyncio.sleep(0.01)",
            "*was called 1 times, and 1 of them did not get to the end*",
        ),
        ("pass", "*the test takes `isolation`, and never called it*"),
        ("await isolation.check(None)", "*None cannot be called*isolation.check(scenario)*"),
        ("await isolation.check(fine(None))", "*a coroutine can be awaited only once: hand over the function itself*"),
        ("await isolation.check(lambda user: user.observe(user.id))", "*check() takes an async function*"),
        ("await isolation.check(fine, users=0)", "*0 is no number of users*"),
    ],
)
def test_a_check_that_was_none_is_no_pass(suite, body, said):
    """Whichever way it did not happen."""
    result = suite(CHECK.format(body=body), "-Wignore")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said])


def test_a_check_that_a_time_limit_ended_is_called_so(suite):
    """And what it had seen counts."""
    result = suite(CHECK.format(body="await impatient(isolation.check(leaky, users=3))"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*isolation.check was cancelled before it had got to its end*",
            "LEAK  solo-01 received the secret 'dm' of solo-00",
        ]
    )


TIMEOUT = """
    import asyncio
    import signal
    import time
    import pytest

    def alarm(number, frame):
        pytest.fail("the test took too long", pytrace=False)

    @pytest.fixture(autouse=True)
    def time_limit():
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)

    alone = 0

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3)
    async def test_it(user):
        global alone
        alone += 1
        user.observe(user.id)
        while alone > 5:
            time.sleep(0.001)
            await asyncio.sleep(0)
"""


def test_a_time_limit_for_the_test_is_no_users_fault(suite):
    """It comes as a signal, in the middle of some user's code."""
    result = suite(TIMEOUT)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the test took too long*"])
    assert "user-0" not in result.stdout.str()


def test_half_a_surrogate_pair_is_reported(suite, pytester):
    """Neither a terminal nor the connection to a worker of xdist takes it."""
    text = LEAK.format(then="").replace("alice.secret()", "'\\ud83d' + alice.secret()")
    for more in ((), ("-n1",)):
        result = suite(text, "--isolation-report=report.json", *more)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(['  seen      "\\ud83d<secret of user-00>"'])
    assert json.loads((pytester.path / "report.json").read_text())["results"][0]["findings"]


def test_ctrl_c_in_a_crowd_keeps_what_was_seen(pytester):
    """A leak is one though the crowd did not get to its end."""
    pytester.makepyfile(
        """
        import asyncio
        import pathlib
        import pytest

        seen = []

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4)
        async def test_it(user):
            user.observe(user.id)
            if not repr(user).startswith("<solo"):
                seen.append(user.secret("dm"))
                await asyncio.sleep(0)
                user.observe(list(seen))
                pathlib.Path("ready").touch()
                await asyncio.sleep(60)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--isolation-report=report.json"],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        if (pytester.path / "ready").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, said
    [result] = json.loads((pytester.path / "report.json").read_text())["results"]
    assert result["interrupted"]
    assert {finding["kind"] for finding in result["findings"]} == {"leak"}


def test_more_users_than_can_have_secrets_are_refused_at_collection(suite):
    """Before anything runs."""
    result = suite(
        """
        import pytest

        @pytest.mark.isolation(users=36**4)
        def test_it(user):
            pass
        """
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*isolation(users=1679616): at most 100,000 users can play*"])


def test_a_check_in_a_sync_test_says_to_make_it_async(suite):
    """Nothing can be awaited there."""
    source = """
        def test_it(isolation):
            async def scenario(user): user.observe(user.id)
            isolation.check(scenario)
    """
    result = suite(source, "-Wignore")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*called in a sync test*Make the test async: async def test_it(isolation): await isolation.check(scenario)*"]
    )


def test_a_check_that_a_sync_test_runs_in_a_loop_of_its_own_counts(suite):
    """It is asked for outside of that loop, and gets to its end all the same."""
    source = """
        import asyncio
        def test_it(isolation):
            async def scenario(user): user.observe(user.id)
            asyncio.run(isolation.check(scenario, users=3))
    """
    suite(source, "-Wignore").assert_outcomes(passed=1)


def test_a_misuse_by_who_is_alone_is_no_word_on_isolation(suite):
    """It says how to do it, and nothing else."""
    result = suite(CHECK.format(body="await isolation.check(lambda user: user.share(7))"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*pytest-isolation: *"])
    result.stdout.no_fnmatch_line("*says nothing of isolation*")
