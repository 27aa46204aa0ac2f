"""The application as users of a crowd meet it: over HTTP and WebSocket, cut at every await, behind proxies."""

import pytest
import websockets.asyncio.client  # noqa: F401 - pytester forgets what an inner run has imported

import pytest_isolation.targets.http
import pytest_isolation.targets.proxy
import pytest_isolation.targets.websocket  # noqa: F401

CONFTEST = """
    import os, sys
    import pytest
    from pytest_isolation import Proxy
    from reference_impl.tokens import Tokens

    os.environ["REFERENCE_TOKEN_SECRET"] = "of the crowd's tests"

    @pytest.fixture
    def isolation_app():
        return [sys.executable, "-m", "reference_impl", "--port", "{port}"]

    @pytest.fixture
    def isolation_proxy():
        return PROXY

    @pytest.fixture
    def isolation_login():
        async def login(user, client):
            client.headers["authorization"] = f"Bearer {Tokens(os.environ['REFERENCE_TOKEN_SECRET']).issue(user.id)}"
        return login
"""
CHAT = """
    import json
    import pytest

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=10, cancel=True, faults=True)
    async def test_chat(user):
        async with user.websocket("/ws") as socket:
            answer = await user.http.post("/chat", json={"message": user.secret("message")})
            assert user.secret("message") in answer.json()["answer"]
            assert [json.loads(await socket.recv())["sequence"] for _ in range(5)] == [1, 2, 3, 4, 5]
        assert len((await user.http.get("/messages")).json()["messages"]) == 1
"""


@pytest.fixture
def crowd(suite, pytester, monkeypatch):
    """Runs a suite against the application on a database, behind a proxy."""

    def run(source, database=None, proxy="None"):
        if database is not None:
            monkeypatch.setenv("REFERENCE_DATABASE_URL", database)
        pytester.makeconftest(CONFTEST.replace("PROXY", proxy))
        return suite(source)

    return run


@pytest.mark.parametrize(
    ("database", "faults"),
    [
        ("postgresql+asyncpg", "[ConnectionResetError]"),
        *(
            pytest.param(one, "True", marks=pytest.mark.soak)
            for one in ("sqlite", "postgresql+asyncpg", "postgresql+psycopg")
        ),
    ],
)
def test_nobody_notices_users_who_are_cut(crowd, request, database, faults):
    """By cancellation, by errors of the network, by a timeout that expires: at every await, each of which is covered."""
    url = None
    if database != "sqlite":
        url = request.getfixturevalue("plain_url").replace("postgresql", database)
    result = crowd(CHAT.replace("faults=True", f"faults={faults}"), url)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*cancel sweep: * of * points*", "*fault sweep with ConnectionResetError: * of * points*"]
    )


@pytest.mark.parametrize(
    "proxy",
    [
        "Proxy(connections=2)",
        *(pytest.param(one, marks=pytest.mark.soak) for one in ("Proxy(pipeline=True)", "Proxy(cache=True)")),
    ],
)
def test_users_who_share_connections_or_a_cache_are_kept_apart(crowd, proxy):
    """With callers among them who are nobody."""
    result = crowd(
        """
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.isolation(users=10, anonymous=0.25)
        async def test_messages(user):
            answer = await user.http.post("/chat", json={"message": user.secret("message")})
            assert answer.status_code == (401 if user.anonymous else 200)
            await user.http.get("/messages")
            await user.http.get("/static/index.html")
        """,
        proxy=proxy,
    )
    result.assert_outcomes(passed=1)
