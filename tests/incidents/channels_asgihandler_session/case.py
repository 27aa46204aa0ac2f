import app
import pytest


@pytest.fixture
def isolation_app():
    async def served(scope, receive, send):  # Channels has no lifespan
        if scope["type"] == "http":
            await app.app(scope, receive, send)

    return served


@pytest.fixture
def isolation_login():
    async def login(user, client):
        await client.post("/login", headers={"x-name": user.id})

    return login


@pytest.mark.asyncio
@pytest.mark.isolation
async def test_me(user):
    for _ in range(5):
        await user.http.get("/me")
