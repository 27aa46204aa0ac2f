import os

import pytest

from pytest_isolation import Proxy


@pytest.fixture
def isolation_app():
    return [os.environ["INCIDENT_PYTHON"], "-m", "uvicorn", "app:app", "--port", "{port}"]


@pytest.fixture
def isolation_proxy():
    return Proxy(connections=2)


@pytest.mark.asyncio
@pytest.mark.isolation
async def test_me(user):
    await user.http.get("/me", headers={"x-name": user.id})
