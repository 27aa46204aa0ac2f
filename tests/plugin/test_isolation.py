"""@pytest.mark.isolation: one user's test, played by many."""

import textwrap

import pytest

LEAKY = """
    import anyio, pytest
    current = None
    notes = {}
    @pytest.mark.anyio
    @pytest.mark.isolation(users=8)
    async def test_inbox(user):
        global current
        current = user.id
        await anyio.sleep(0)
        notes[current] = user.secret("note")
        await anyio.sleep(0)
        user.observe({"messages": [{"text": "hello"}, {"text": notes[current]}]})
    @pytest.fixture
    def anyio_backend(): return "asyncio"
"""


def test_a_leak_is_reported_with_all_that_a_reader_must_know(suite):
    """Who saw whose what, where in it, in which phase, what it should have been, how to see it again."""
    result = suite(LEAKY, "--isolation-seed=42")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  user-00 received the secret 'note' of user-07",
            "  channel   response, at $.messages[[]1].text",
            "  phase     crowd of 8 users, seed 42",
            '  expected  what user-00 sees alone: "<note of user-00>"',
            '  seen      "<note of user-07>"',
            "  replay    pytest test_it.py::test_inbox --isolation-replay=crowd:8:42",
            "… and 4 more of this kind: user-03, user-04, user-05, user-06",
            "*1 scenario played 13 times: 7 findings (seed 42)*",
        ]
    )


def test_the_printed_command_reproduces_it(suite):
    """The same finding, for the same users, with the same canaries."""
    first = suite(LEAKY)
    replay = next(line for line in first.outlines if line.startswith("  replay")).split("--")[1]
    again = suite(LEAKY, f"--{replay}")
    again.assert_outcomes(failed=1)
    leaks = [[line for line in run.outlines if line.startswith("LEAK")] for run in (first, again)]
    assert leaks[0] == leaks[1] != []


def test_the_printed_command_fits_the_folder_it_was_started_in(suite, pytester, monkeypatch):
    """Not the root of the project: what is printed can be typed."""
    suite(LEAKY)
    folder = pytester.mkdir("folder")
    pytester.makepyfile(**{"folder/test_below": LEAKY})
    monkeypatch.chdir(folder)
    below = pytester.runpytest_inprocess("test_below.py")
    below.stdout.fnmatch_lines(["  replay    pytest test_below.py::test_inbox --isolation-replay=crowd:8:*"])
    above = pytester.runpytest_inprocess("../test_it.py")
    above.stdout.fnmatch_lines(
        [f"  replay    pytest {pytester.path}/test_it.py::test_inbox --isolation-replay=crowd:8:*"]
    )


def test_an_isolated_backend_passes(suite):
    """Five runs alone, the crowd, one more alone; a cancelled one and one after it for each suspension point, a crowd."""
    result = suite(LEAKY.replace("current", "own").replace("global own\n", "own = None\n"))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 scenario played 27 times: 0 findings*"])


@pytest.mark.parametrize(
    "decorator",
    ["@pytest.mark.asyncio", "@pytest.mark.anyio"],
)
def test_every_user_plays_on_its_own(suite, decorator):
    """With an id of its own, among the others' fixtures."""
    result = suite(
        f"""
        import anyio, pytest
        seen = []
        @pytest.fixture(params=["asyncio", "trio"] if "anyio" in "{decorator}" else ["asyncio"])
        def anyio_backend(request): return request.param
        @pytest.fixture
        def thing(): return object()
        {decorator}
        @pytest.mark.isolation(users=5, cancel=False)
        async def test(user, thing):
            seen.append((user.index, user.id, id(thing)))
            await anyio.sleep(0)
            user.observe(user.id)
        def test_counts():
            assert len({{u for _, u, _ in seen}}) == len(seen) and len(seen) in (11, 22)
            assert sorted(i for i, _, _ in seen)[-1] == 4
        """
    )
    assert result.ret == 0


def test_a_sync_scenario_is_played_by_threads(suite):
    """All of them at once."""
    result = suite(
        """
        import pytest, threading
        barrier = threading.Barrier(6)
        @pytest.mark.isolation(users=6)
        def test(user):
            if threading.current_thread() is not threading.main_thread():  # where a user is who is alone
                barrier.wait(10)
            user.observe(user.id)
        """
    )
    result.assert_outcomes(passed=1)


def test_a_race_between_threads_is_found(suite):
    """A module-level variable, written and read with a switch in between."""
    result = suite(
        """
        import pytest, time
        current = None
        @pytest.mark.isolation(users=20)
        def test(user):
            global current
            current = user.secret("note")
            time.sleep(0.001)
            user.observe(current)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  user-* received the secret 'note' of user-*"])


def test_an_assertion_that_fails_for_one_user_names_it(suite):
    """The user's own assertion, then who it was, in which phase, and how to see it again."""
    result = suite(
        """
        import anyio, pytest
        busy = []
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4)
        async def test_it(user):
            user.observe(user.id)
            busy.append(user)
            await anyio.sleep(0)
            assert len(busy) == 1, "somebody else is here"
            busy.remove(user)
        """,
        "--isolation-seed=7",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * AssertionError: somebody else is here",
            "E *FAILED  user-00 failed, though the scenario ended well for those who were alone before",
            "E *phase     crowd of 4 users, seed 7",
            "E *replay    pytest test_it.py::test_it --isolation-replay=crowd:4:7",
            "test_it.py:9: AssertionError",
        ]
    )


def test_a_scenario_that_fails_alone_is_an_ordinary_failure(suite):
    """It says nothing of isolation, and says so."""
    result = suite(
        """
        import pytest
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4)
        async def test(user):
            user.observe(user.id)
            assert 1 == 2
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *assert 1 == 2", "E *solo-00 was alone, so this says nothing of isolation yet"])


def test_a_wrong_answer_without_a_canary_is_found(suite):
    """A count of everybody's messages."""
    result = suite(
        """
        import anyio, pytest
        open_requests = 0
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=3)
        async def test(user):
            global open_requests
            open_requests += 1
            await anyio.sleep(0.001)
            user.observe({"me": user.id, "open": open_requests})
            open_requests -= 1
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "DIFFERENT  user-00 saw another response than alone",
            "  channel   response, at $.open",
            '  expected *"1"',
            '  seen      "3"',
        ]
    )


def test_what_differs_between_solo_runs_is_not_held_against_anybody(suite):
    """Five of them learn what varies."""
    result = suite(
        """
        import asyncio, itertools, pytest
        dice = itertools.cycle([1, 1, 1, 2, 3])
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=6)
        async def test(user):
            await asyncio.sleep(0)
            user.observe({"me": user.id, "dice": next(dice)})
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*played 21 times: 0 findings*"])


def test_a_starved_user_is_a_finding(suite, monkeypatch):
    """A slot that is not given back: the test comes to an end and says who waits."""
    import pytest_isolation.playbook as playbook

    monkeypatch.setattr(playbook, "_LEAST_PATIENCE_S", 0.2)
    result = suite(
        """
        import anyio, pytest
        @pytest.fixture
        def slots(): return anyio.CapacityLimiter(2)
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4)
        async def test(user):
            if user._label.startswith("user") and user.index > 1:
                await anyio.sleep_forever()
            user.observe(user.id)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["STARVED  user-02 never got to the end*", '  seen      "still waiting after 0.? s, at test_it.py:8 in test"']
    )


def test_declared_sharing_is_no_leak(suite):
    """A feed that everybody may read."""
    result = suite(
        """
        import anyio, pytest
        feed = []
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=10)
        async def test(user):
            user.share("post")
            feed.append({"by": user.secret("post"), "likes": 0})
            await anyio.sleep(0)
            user.observe({"me": user.id, "posts": list(feed)})
        """
    )
    result.assert_outcomes(passed=1)


def test_a_scenario_may_have_a_budget(suite):
    """Each user's run in the crowd is judged; crowds play until it is decided."""
    result = suite(
        """
        import asyncio, pytest
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=50)
        @pytest.mark.latency(p95_ms=500)
        async def test(user):
            await asyncio.sleep(0)
            user.observe(user.id)
        """,
        "--isolation-budget",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test  150 *p95 ≤ 500 ms*pass", "*1 scenario played 219 times: 0 findings*"])


def test_a_crowd_in_threads_is_judged_as_often_as_it_plays(suite):
    """Its threads look at the machine's clock all at once, while others of them begin and end."""
    result = suite(
        """
        import time, pytest

        @pytest.mark.parametrize("turn", range(5))
        @pytest.mark.isolation(users=8)
        @pytest.mark.latency(p95_ms=500)
        def test_it(user, turn):
            time.sleep(0.002)
            user.observe(user.secret())
        """
    )
    result.assert_outcomes(passed=5)


def test_a_scenario_that_misses_its_budget_fails(suite):
    """Confirmed by further crowds."""
    result = suite(
        """
        import anyio, pytest
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=50)
        @pytest.mark.latency(p95_ms=1)
        async def test(user):
            await anyio.sleep(0.005)
            user.observe(user.id)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["OVER BUDGET  p95*, budget 1 ms", "*confirmed in a second run*"])


def test_several_users_in_one_test(suite):
    """alice, bob = users(2): judged when the test ends."""
    result = suite(
        """
        def test_fine(users):
            alice, bob = users(2)
            alice.observe(alice.secret("note"))
            bob.observe(bob.secret("note"))
        def test_leak(users):
            alice, bob = users(2)
            bob.observe({"note": alice.secret("note")}, "websocket")
        def test_shared(users):
            alice, bob = users(2)
            alice.share("note", bob)
            bob.observe(alice.secret("note"))
        def test_silent(users):
            users(2)
        """
    )
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "LEAK  user-01 received the secret 'note' of user-00",
            "  channel   websocket, at $.note",
            "*none of the users observed anything*",
        ]
    )


def test_the_engine_from_code(suite):
    """report = await isolation.check(scenario, users=50)."""
    result = suite(
        """
        import anyio, pytest
        pytestmark = pytest.mark.asyncio
        current = None
        async def leaky(user):
            global current
            current = user.secret("note")
            await anyio.sleep(0)
            user.observe(current)
        async def fine(user):
            await anyio.sleep(0)
            user.observe(user.secret("note"))
        async def test_fine(isolation):
            report = await isolation.check(fine, users=7)
            assert report.runs == 23 and not report.findings
        async def test_leak(isolation):
            await isolation.check(leaky, users=7)
        async def test_report(isolation):
            report = await isolation.check(leaky, users=7, fail=False)
            assert [finding.kind for finding in report.findings] == ["leak"] * 6
        async def test_silent(isolation):
            async def silent(user): user.id
            await isolation.check(silent, users=7)
        """
    )
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        ["LEAK  user-* received the secret 'note' of user-06", "*the scenario observed nothing*"]
    )


def test_a_user_without_a_scenario_is_simply_a_user(suite):
    """For a latency test that needs somebody to ask for something."""
    result = suite(
        """
        import pytest
        @pytest.mark.latency(p95_ms=500)
        def test_timed(user): assert user.id
        def test_plain(user): assert user.id == user.secret("id")
        """
    )
    result.assert_outcomes(passed=2)


def test_a_fixture_called_user_of_the_suite_itself_is_left_alone(suite):
    """It is a common name."""
    result = suite(
        """
        import pytest
        @pytest.fixture
        def user(): return "alice"
        @pytest.fixture
        def users(): return ["alice"]
        @pytest.fixture
        def latency(): return 3
        def test(user, users, latency): assert (user, users, latency) == ("alice", ["alice"], 3)
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*isolation =*")


def test_a_repeated_test_gets_users_of_its_own(suite):
    """What the first take left behind is not taken for the second one's."""
    result = suite(
        """
        import asyncio, pytest
        seen = []
        @pytest.mark.parametrize("n", [1, 2])
        @pytest.mark.isolation(users=3)
        @pytest.mark.asyncio
        async def test(user, n):
            seen.append(user.id)
            await asyncio.sleep(0)
            user.observe(user.id)
        def test_counts(): assert len(set(seen)) == 30
        """
    )
    result.assert_outcomes(passed=3)


def test_what_an_earlier_test_left_behind_is_found(suite):
    """A backend that outlives a test must not hand its data to the next one's users."""
    result = suite(
        """
        import pytest
        cache = {}
        @pytest.mark.isolation(users=2)
        @pytest.mark.parametrize("n", [1, 2])
        @pytest.mark.asyncio
        async def test(user, n):
            note = cache.setdefault(user.index, user.secret("note"))
            user.observe(note)
            if n == 1: cache.clear() or cache.update({0: user.secret("note")})
        """
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["LEAK * received the secret 'note' of *"])


def test_a_scenario_that_never_shows_a_user_its_own_secret_is_warned_of(suite):
    """A leak of somebody else's would hardly show either."""
    result = suite(
        """
        import anyio, pytest
        @pytest.mark.isolation(users=3)
        @pytest.mark.asyncio
        async def test(user):
            user.secret("note")
            await anyio.sleep(0)
            user.observe("OK")
        """,
        "-W",
        "always",
    )
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["*IsolationWarning: test_it.py::test: a user who is alone never sees one of its own secrets*"]
    )


LASTING = {
    "a slot that is lost for ever when two collide": (
        "*STARVED  * never got to the end*",
        """
        slots = 4
        async def handle(note):
            global slots
            while slots == 0: await asyncio.sleep(0.001)
            before = slots
            slots = before - 1
            await asyncio.sleep(0)
            slots = before - 1 + (1 if before - 1 == slots else 0)
            return note
        """,
    ),
    "a reply that the last of the crowd left behind": (
        "LEAK  solo-05 received the secret 'note' of user-*",
        """
        replies, under_way, crowded = [], 0, False
        async def handle(note):
            global under_way, crowded
            under_way += 1
            crowded = crowded or under_way == 4
            await asyncio.sleep(0)
            under_way -= 1
            if crowded and not under_way:
                replies.append(note)
            return replies.pop(0) if crowded and not under_way and len(replies) > 1 else note
        """,
    ),
    "an error that stays": (
        "*FAILED  solo-05 failed, though the scenario ended well for those who were alone before",
        """
        broken = under_way = 0
        async def handle(note):
            global broken, under_way
            if broken and not under_way: raise RuntimeError("the connection is closed")
            under_way += 1
            await asyncio.sleep(0.001)
            broken = broken or under_way > 1
            under_way -= 1
            return note
        """,
    ),
    "a mode that stays": (
        "DIFFERENT  solo-05 saw another response than alone",
        """
        degraded = under_way = 0
        async def handle(note):
            global degraded, under_way
            under_way += 1
            answer = [note, "fast"] if not degraded or under_way > 1 else [note, "slow"]
            await asyncio.sleep(0.001)
            degraded = degraded or under_way > 1
            under_way -= 1
            return answer
        """,
    ),
}


@pytest.mark.parametrize("fault", LASTING)
def test_what_a_crowd_breaks_for_good_is_found_and_not_taken_for_normal(suite, monkeypatch, fault):
    """After the crowd one user is alone again, and must see what those saw who came before it."""
    import pytest_isolation.playbook as playbook

    monkeypatch.setattr(playbook, "_LEAST_PATIENCE_S", 0.3)
    first_line, backend = LASTING[fault]
    test = """
        @pytest.mark.asyncio
        @pytest.mark.isolation(users=4)
        async def test(user): user.observe(await handle(user.secret("note")))
    """
    result = suite("import asyncio, pytest\n" + textwrap.dedent(backend) + textwrap.dedent(test))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([first_line, "*phase     *, seed *"])
    if "solo-05" in first_line:
        result.stdout.fnmatch_lines(["*phase     solo, after the crowd, seed *"])


@pytest.mark.parametrize("kind", ["async ", ""])
def test_a_crowd_that_never_meets_is_warned_of(suite, kind):
    """Who never waits for anything is alone all the time; a green result would say less than it seems to."""
    result = suite(
        f"""
        import pytest, threading
        {"@pytest.mark.asyncio" if kind else "lock = threading.Lock()"}
        @pytest.mark.isolation(users=3)
        {kind}def test(user):
            user.observe(user.id)
        """,
        "-W",
        "always",
    )
    result.assert_outcomes(passed=1)
    if kind:  # threads may meet even so
        result.stdout.fnmatch_lines(["*IsolationWarning: test_it.py::test: no two of the users were ever under way*"])


def test_a_user_who_observes_outside_a_scenario_is_judged_and_warned_of(suite):
    """The marker was forgotten, most likely."""
    result = suite(
        """
        import pytest
        last = None
        def test_first(user):
            global last
            last = user.observe(user.secret("note"))
        def test_second(user): user.observe(last)
        """,
        "-W",
        "always",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  user-00 received the secret 'note' of a user of another test or an earlier run",
            "*IsolationWarning: test_it.py::test_first: `user` observed something, but nobody else played*",
        ]
    )


def test_a_leak_between_several_users_is_not_lost_when_the_test_fails_otherwise(suite):
    """Both are said."""
    result = suite(
        """
        def test(users):
            alice, bob = users(2)
            bob.observe(alice.secret("note"))
            assert 1 == 2
        """,
        "--isolation-seed=3",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *assert 1 == 2",
            "E *LEAK  user-01 received the secret 'note' of user-00",
            "E * replay    pytest test_it.py::test --isolation-replay=test:3",
            "*1 finding (seed 3)*",
        ]
    )


def test_what_a_test_with_several_users_printed_plays_it_again(suite):
    """Its token carries the seed alone."""
    source = """
        def test(users):
            alice, bob = users(2)
            bob.observe(alice.secret("note"))
    """
    suite(source, "--isolation-replay=test:77").stdout.fnmatch_lines(["*1 finding (seed 77)*"])


def test_a_replay_that_finds_nothing_says_what_that_means(suite):
    """The order of tasks is the event loop's own."""
    result = suite(
        LEAKY.replace("current", "own").replace("global own\n", "own = None\n"), "--isolation-replay=crowd:4:7"
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*the replay met nothing*"])


@pytest.mark.parametrize("users", ["0", "-1", "True", "2.5", "'many'"])
def test_the_engine_from_code_refuses_nobody(suite, users):
    """Green with nobody in it would be a lie."""
    result = suite(
        f"""
        import pytest
        @pytest.mark.asyncio
        async def test(isolation):
            async def scenario(user): user.observe(user.id)
            await isolation.check(scenario, users={users})
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is no number of users: it is a whole number ≥ 1, as in isolation.check(*"])


def test_the_engine_from_code_must_be_called(suite):
    """Whoever takes it wants something checked."""
    result = suite("def test(isolation): pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the test takes `isolation`, and never called it*"])


ODD = """
    import asyncio, pytest

    crowds = 0

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=3, cancel=False)
    async def test_it(user):
        global crowds
        crowds += user._label.startswith("user") and user.index == 0
        await asyncio.sleep(0)
        user.observe([user.id, "odd" if crowds in {odd} and user.index == 1 else "even"])
"""


@pytest.mark.parametrize(
    ("odd", "headline", "certainty"),
    [
        ([1], "DIFFERENT (suspected)", "suspected: different once, and not when it was played again"),
        ([1, 3], "DIFFERENT", "different from what users see alone"),
    ],
)
def test_a_difference_in_a_crowd_is_looked_for_in_others(suite, odd, headline, certainty):
    """A race shows in some; and what showed in one only is said to, but not let pass."""
    result = suite(ODD.format(odd=odd))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [f"{headline}  user-01 saw another response than alone", f"  certainty {certainty}", "  replay *"]
    )


def test_who_says_that_a_suspicion_is_no_fault_is_asked_when_it_is_one(suite):
    """A confirmed difference stays a fault."""
    conftest = """
        def pytest_isolation_allow(finding):
            return "seen once" if finding.confidence == "suspected" else None
    """
    files = {"conftest": textwrap.dedent(conftest)}
    result = suite(ODD.format(odd=[1]), **files)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*allowed: user-01 saw another response than alone (seen once)"])
    suite(ODD.format(odd=[1, 3]), **files).assert_outcomes(failed=1)
