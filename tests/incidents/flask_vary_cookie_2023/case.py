import os

import pytest

from pytest_isolation import Proxy


@pytest.fixture
def isolation_app():
    return [os.environ["INCIDENT_PYTHON"], "-m", "flask", "--app", "app", "run", "--port", "{port}"]


@pytest.fixture(params=[None, Proxy(cache=True)], ids=["direct", "behind a cache"])
def isolation_proxy(request):
    return request.param


@pytest.fixture
def isolation_login():
    async def login(user, client):
        await client.post("/login", headers={"x-name": user.id})

    return login


@pytest.mark.asyncio
@pytest.mark.isolation
async def test_news(user):
    await user.http.get("/news")
    await user.http.get("/me")
