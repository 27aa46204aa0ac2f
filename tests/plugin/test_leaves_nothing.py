"""Whatever becomes of a test, the next one runs in an interpreter and an event loop that are as they were."""

import pytest

AFTER = """
    def test_next():
        assert gc.isenabled()
"""
PAUSED = {
    "a test that fails": """
        def test_it(users):
            [alice] = users(1)
            alice.track(Thing())
            assert not alice
    """,
    "a fixture that tracks when it is torn down": """
        @pytest.fixture
        def late(user):
            yield
            user.track(Thing())
        def test_it(late, user):
            user.observe(1)
    """,
    "another fixture that fails": """
        @pytest.fixture
        def early(user):
            user.track(Thing())
        @pytest.fixture
        def broken(early):
            raise RuntimeError
        def test_it(broken):
            pass
    """,
    "a backend that does not close": """
        class Shop:
            count = 0
            async def aclose(self):
                Shop.count += 1
                if Shop.count == 3:
                    raise RuntimeError
        async def scenario(user, shop):
            user.track(Thing())
            user.observe(user.secret())
        def test_it(isolation):
            isolation.explore(Shop, scenario, users=2, seconds=0.1)
    """,
}


@pytest.mark.parametrize("what", PAUSED)
def test_the_garbage_collector_works_after_it(suite, what):
    """It rests from the first object that is tracked."""
    top = "\nimport gc, pytest\nclass Thing: pass\n"
    result = suite(top + "\n".join(line[4:] for line in (PAUSED[what] + AFTER.replace("\n", "\n    ")).split("\n    ")))
    assert result.parseoutcomes()["passed"] >= 1
    result.stdout.no_fnmatch_line("*test_next*")


HANGS = """
    import asyncio, pytest

    @pytest.mark.asyncio
    async def test_it(isolation):
        async def scenario(user):
            user.observe(user.secret())
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                await asyncio.sleep(3600)
                raise
        await isolation.check(scenario, users=3, cancel=True, fail=False)
        assert "select" not in vars(asyncio.get_running_loop()._selector)
"""


def test_the_network_is_as_fast_as_before(suite):
    """Though a user who was cancelled never ended, and nobody else had a turn."""
    suite(HANGS).assert_outcomes(passed=1)


TWO = """
    import asyncio, pytest

    @pytest.mark.asyncio
    async def test_it(isolation):
        async def scenario(user):
            await asyncio.sleep(0)
            user.observe(user.secret())
        factory = asyncio.get_running_loop().get_task_factory()
        try:
            await asyncio.gather(isolation.check(scenario, users=5), isolation.check(scenario, users=3))
        finally:
            await asyncio.sleep(0.5)
            assert asyncio.get_running_loop().get_task_factory() is factory
"""


def test_two_checks_at_once_are_refused(suite):
    """Each would see what the other does to the process."""
    result = suite(TWO)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*another isolation.check of this test is under way*await one after the other*"])
