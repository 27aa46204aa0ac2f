"""Servers that are started when a test first asks for one, once a session."""

import secrets

import psycopg
import pytest
import servers


@pytest.fixture(scope="session")
def _postgres(request):
    with servers.postgres() as server:
        _say(request, server)
        # Of our own, for the server may be somebody else's.
        name = f"isolation_test_{secrets.token_hex(4)}"
        _run(server.url, f"CREATE DATABASE {name}")
        yield f"{server.url.rpartition('/')[0]}/{name}"
        _run(server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(_postgres):
    """A real PostgreSQL, empty at the start of every test: ``postgresql://…``."""
    # A tenth of the time that a new database for every test takes.
    _run(_postgres, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "GRANT USAGE ON SCHEMA public TO PUBLIC")
    return _postgres


def _run(url, *statements):
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def plain_url(postgres_url):
    """The same database, for a role that is no superuser and owns its tables, as in production."""
    _run(
        postgres_url,
        "DO $$ BEGIN CREATE ROLE plain LOGIN PASSWORD 'plain'; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "GRANT ALL ON SCHEMA public TO plain",
    )
    return f"postgresql://plain:plain@{postgres_url.rpartition('@')[2]}"


@pytest.fixture(scope="session")
def valkey_url(request):
    """A real Valkey or Redis: ``redis://…``."""
    with servers.valkey() as server:
        _say(request, server)
        yield server.url


def _say(request, server):
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # a worker of xdist has none
        reporter.write_line(f"server: {server.what}")
