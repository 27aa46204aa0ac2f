"""The suite runs wherever pytest and anyio are installed; another async plugin is not needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_isolation.backend import Backend


@pytest.fixture
def anyio_backend() -> str:
    """Backends that use SQLAlchemy, asyncpg or redis need asyncio."""
    return "asyncio"


@pytest.fixture
def agent_kind(isolation_backend: object) -> str:
    """The first kind of agent that the backend offers."""
    kinds = getattr(isolation_backend, "agents", ())
    if not kinds:
        pytest.fail(f"{type(isolation_backend).__name__}.agents is empty; the suite needs one to run", pytrace=False)
    return str(kinds[0])


@pytest.fixture
def new_backend(request: pytest.FixtureRequest) -> Callable[[], Backend]:
    """Makes further backends of the kind that is tested; who does so starts and closes them."""
    make: Callable[[], Backend] = request.getfixturevalue("_isolation_factory")
    return make
