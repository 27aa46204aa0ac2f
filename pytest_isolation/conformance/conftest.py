"""The suite runs wherever pytest and anyio are installed; another async plugin is not needed."""

from __future__ import annotations

import pytest


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
