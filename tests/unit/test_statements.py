"""Which statements leave nothing in a connection, as far as their text says so."""

import pytest

from pytest_isolation.targets.redis import commands_in
from pytest_isolation.targets.statements import is_harmless, names_set, of_sequences

HARMLESS = [
    "SELECT 1",
    "select count(*), coalesce(x, 'set_config(1)') from notes where id in (1, 2) -- SET ROLE x",
    "INSERT INTO notes (id, text) VALUES ($1, $2) RETURNING notes.id",
    "WITH x AS (SELECT 1) SELECT * FROM x",
    "UPDATE notes SET text = lower(text);",
    "BEGIN",
    "SAVEPOINT sa_savepoint_1",
    "SET LOCAL app.user_id = '7'",
    "SELECT set_config('app.user_id', $1::VARCHAR, true)",
    "SELECT pg_catalog.current_setting('x')",
]
HARMFUL = [
    "SET ROLE visitor",
    "SELECT set_config('app.user_id', $1, false)",
    "SELECT set_config('app.user_id', $1, $2)",
    "SELECT my_function(1)",
    'SELECT "my_function"(1)',
    "SELECT shop.count(1)",
    "SELECT 1; SET ROLE visitor",
    "SELECT 1 INTO TEMP draft",
    "CREATE TEMP TABLE draft (x int)",
    "LISTEN news",
    "PREPARE asked AS SELECT 1",
    "DECLARE peek CURSOR WITH HOLD FOR SELECT 1",
    "SELECT pg_advisory_lock(7)",
    "DO $$ BEGIN SET ROLE visitor; END $$",
    "SELECT $a$'$a$, my_function('')",
    "SELECT E'\\'', my_function('')",
    "",
]


@pytest.mark.parametrize("statement", HARMLESS)
def test_nothing_is_left_of_it(statement):
    """So nobody has to ask."""
    assert is_harmless(statement)


@pytest.mark.parametrize("statement", HARMFUL)
def test_something_may_be_left_of_it(statement):
    """Or nobody knows."""
    assert not is_harmless(statement)


def test_the_names_of_custom_settings_are_found():
    """Written, or bound."""
    assert list(names_set("SET app.user_id = 1", None)) == ["app.user_id"]
    assert list(names_set("SELECT set_config($1, $2, false)", ("app.tenant", "7"))) == ["app.tenant"]
    assert list(names_set("SELECT set_config(%(n)s, %(v)s, false)", {"n": "app.tenant", "v": "7"})) == ["app.tenant"]
    assert list(names_set("SELECT 1", ("app.tenant",))) == []


def test_what_becomes_of_sequences_is_told():
    """A number is drawn, read again, forgotten."""
    assert of_sequences("INSERT INTO notes VALUES (1)") == "moves"
    assert of_sequences("SELECT lastval()") == "reads"
    assert of_sequences("DISCARD SEQUENCES") == "forgets"
    assert of_sequences("SELECT 1") == ""


def test_commands_of_redis_are_counted():
    """One, or several at once, in pieces."""
    ping = b"*1\r\n$4\r\nPING\r\n"
    assert commands_in(ping) == 1
    assert commands_in([ping, b"*2\r\n$3\r\nGET\r\n", b"$6\r\n*1\r\n$4\r\n"]) == 2
