import os

import pytest

from pytest_isolation import Proxy


@pytest.fixture
def isolation_app():
    return [os.environ["INCIDENT_PYTHON"], "app.py", "{port}"]


@pytest.fixture
def isolation_proxy():
    return Proxy(pipeline=True)


@pytest.mark.asyncio
@pytest.mark.isolation
async def test_me(user):
    headers = {"x-name": user.id, "x-wait-s": str(user.index % 5 / 1000)}
    await user.http.get("/", headers=headers, timeout=3)  # the faulty version loses answers too
