"""isolation_backend: the reference backend, or the one that was named; open for exactly one test."""

import pytest

SHOP = """
    import asyncio
    log = []
    class Shop:
        agents = ("clerk",)
        async def start(self):
            self.loop = asyncio.get_running_loop()
            log.append("start")
        async def aclose(self):
            assert asyncio.get_running_loop() is self.loop
            log.append("close")
        def request(self, user_id): ...
        def connect(self, user_id): ...
    def create(): return Shop()
"""


def test_the_reference_backend_is_the_default(suite):
    """It is started in the loop of the test."""
    result = suite(
        """
        import pytest
        @pytest.mark.asyncio
        async def test(isolation_backend):
            async with isolation_backend.request("alice") as request:
                async with request.session() as session:
                    await session.save("note")
                    assert list(await session.load()) == ["note"]
        """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("marker", ["", "@pytest.mark.latency(p95_ms=500)", "@pytest.mark.isolation(users=3)"])
def test_another_backend_is_started_and_closed_around_the_body(suite, marker):
    """Once a test, however often the body runs, in the same loop."""
    result = suite(
        f"""
        import asyncio, pytest, shop
        @pytest.fixture
        def client(isolation_backend): return isolation_backend
        @pytest.mark.asyncio
        {marker}
        async def test(client, user):
            assert shop.log == ["start"]
            await asyncio.sleep(0)
            if "{marker}".endswith("(users=3)"): user.observe(user.id)
        def test_closed(): assert shop.log == ["start", "close"]
        """,
        "--isolation-backend=shop:create",
        shop=SHOP,
    )
    result.assert_outcomes(passed=2)


def test_a_failing_body_closes_it_too(suite):
    """Whatever happens."""
    result = suite(
        """
        import pytest, shop
        @pytest.mark.asyncio
        async def test(isolation_backend): assert 0
        def test_closed(): assert shop.log == ["start", "close"]
        """,
        "--isolation-backend=shop:create",
        shop=SHOP,
    )
    result.assert_outcomes(passed=1, failed=1)


def test_a_backend_that_fails_to_start_is_closed_all_the_same(suite):
    """It may have opened half of what it needs."""
    result = suite(
        """
        import pytest, shop
        @pytest.mark.asyncio
        async def test(isolation_backend): pass
        def test_closed(): assert shop.log == ["start", "close"]
        """,
        "--isolation-backend=shop:create",
        shop=SHOP.replace('log.append("start")', 'log.append("start")\n            raise OSError("no server")'),
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E *OSError: no server"])


def test_a_sync_test_cannot_have_it(suite):
    """Nobody could start it."""
    result = suite("def test(isolation_backend): pass", "--isolation-backend=shop:create", shop=SHOP)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*`isolation_backend` is started in the loop of an async test, and this one is sync*"])


def test_a_backend_that_does_not_close_is_cancelled_and_named(suite, monkeypatch):
    """A test run must come to its end."""
    import pytest_isolation.stand_in as stand_in

    monkeypatch.setattr(stand_in, "_CLOSING_S", 0.1)
    result = suite(
        """
        import pytest
        @pytest.mark.asyncio
        async def test(isolation_backend): pass
        """,
        "--isolation-backend=shop:create",
        "-W",
        "always",
        shop=SHOP.replace('log.append("close")', "await asyncio.sleep(60)"),
    )
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*IsolationWarning: Shop.aclose() did not end within 0.1 s and was cancelled*"])


def test_a_conftest_may_override_the_fixture(suite, pytester):
    """Then it is the suite's own, to open and to close."""
    pytester.makeconftest(
        """
        import pytest
        @pytest.fixture
        def isolation_backend(): return "mine"
        """
    )
    result = suite(
        """
        import pytest
        @pytest.mark.latency(p95_ms=500)
        def test(isolation_backend): assert isolation_backend == "mine"
        """
    )
    result.assert_outcomes(passed=1)


def test_without_the_extra_the_error_names_it(suite, monkeypatch):
    """The reference backend needs SQLAlchemy and aiosqlite; the plugin does not."""
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "reference_impl"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    result = suite(
        """
        import pytest
        @pytest.mark.asyncio
        async def test(isolation_backend): pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pip install 'pytest-isolation[[]reference]'*"])


def test_the_conformance_suite_accuses_a_leaky_backend(suite):
    """A class-level buffer: every user reads everybody's notes."""
    result = suite(
        "",
        "--pyargs",
        "pytest_isolation.conformance.test_isolation",
        "-k",
        "own_data_only and 100",
        "--isolation-users=10",
        "--isolation-backend=leaky:create",
        leaky="""
        from reference_impl import ReferenceBackend
        from reference_impl.database import UserSession
        kept = []
        class Leaky(ReferenceBackend):
            async def start(self):
                await super().start()
                self.real_load, UserSession.load = UserSession.load, lambda session: load(session)
            async def aclose(self):
                UserSession.load = self.real_load
                await super().aclose()
        async def load(session):
            from sqlalchemy import select
            from reference_impl.database import Note
            return (await session._session.scalars(select(Note.text))).all()
        create = Leaky
        """,
    )
    result.assert_outcomes(failed=1, deselected=9)
    result.stdout.fnmatch_lines(
        [
            "LEAK  solo-01 received the secret 'note' of solo-00",
            "  replay    pytest --pyargs 'pytest_isolation.conformance.test_isolation::test_own_data_only[[]100-users]' *",
            "* --isolation-backend=leaky:create --isolation-replay=crowd:10:*",
        ]
    )
