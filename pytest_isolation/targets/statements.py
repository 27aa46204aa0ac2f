"""What a statement may leave in a connection of PostgreSQL, as far as its text says so.

It errs to one side only: a statement that is taken for harmless leaves nothing, unless a trigger or an operator of the
database does so behind its back; for that a connection is looked at once more when a scene has ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

_NAMED = re.compile(r"(?:(?:^|;)\s*SET\s+(?:SESSION\s+)?|set_config\s*\(\s*')([a-z_]\w*\.[\w.]+)", re.IGNORECASE)
_NAME = re.compile(r"[a-z_]\w*\.[\w.]+", re.IGNORECASE)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_INTO = re.compile(r"\b(?:insert|merge)\s+into\s+[\w.]+\s*\(?")
_BOUND = re.compile(r"\bset_config\s*\([^(),]*,[^(),]*,\s*true\s*\)")  # until the transaction ends
_CALL = re.compile(r"([\w.]+)\s*\(")
_SEQUENCE_READ = re.compile(r"\b(?:lastval|currval)\s*\(", re.IGNORECASE)
_SEQUENCE_MOVED = re.compile(r"\binsert\s+into\b|\bnextval\s*\(", re.IGNORECASE)
_SEQUENCE_FORGOTTEN = re.compile(r"\bdiscard\s+(?:sequences|all)\b", re.IGNORECASE)
_ROLE = re.compile(
    r"\bset\s+(?:local\s+|session\s+)?(?:role|session\s+authorization)\b|set_config\s*\(\s*'(?:role|session_auth)",
    re.IGNORECASE,
)
_BEGIN = """
    select insert update delete merge with values table begin start commit end rollback abort savepoint release show
    fetch move
"""
# What stands before a parenthesis and leaves nothing: words of SQL, types, and functions that only compute.
_COMPUTE = """
    in any all some exists and or not as on using over partition by values from where when then else case join lateral
    union except intersect within filter group having returning limit offset select set distinct is between like ilike
    materialized rollup cube sets only conflict with
    count sum min max avg coalesce nullif greatest least cast lower upper length trim btrim ltrim rtrim substring
    substr replace concat concat_ws position strpos split_part left right now date_trunc date_part extract to_char
    to_date to_timestamp age abs round ceil ceiling floor mod power sqrt random md5 gen_random_uuid row row_number
    rank dense_rank lag lead first_value last_value array array_agg string_agg json_agg jsonb_agg json_build_object
    jsonb_build_object json_object_agg jsonb_object_agg to_json to_jsonb unnest generate_series bool_and bool_or every
    lastval currval nextval varchar char character numeric decimal time timestamp interval bit varying float
    precision pg_sleep pg_backend_pid current_setting version pg_advisory_xact_lock pg_try_advisory_xact_lock
"""
_BEGINNINGS, _PURE = frozenset(_BEGIN.split()), frozenset(_COMPUTE.split())
_UNTIL_THE_END = frozenset({"local", "constraints", "transaction"})


@lru_cache(maxsize=1000)
def is_harmless(statement: str) -> bool:
    """Nothing of it is left in the connection once its transaction has ended."""
    if "\\" in statement or "$$" in statement or re.search(r"\$[a-z_]\w*\$", statement, re.IGNORECASE):
        return False  # another way of quoting
    text = _QUOTED.sub(_blank, statement).lower().strip().rstrip(";")
    words = text.split(None, 2)
    if not words or ";" in text:
        return False
    if words[0] == "set":
        return len(words) > 1 and words[1] in _UNTIL_THE_END
    if words[0].rstrip("(") not in _BEGINNINGS:
        return False
    text = _BOUND.sub(" ", _INTO.sub(" ", text))
    if re.search(r"\binto\b", text):
        return False
    return all(name.removeprefix("pg_catalog.") in _PURE for name in _CALL.findall(text))


def _blank(quoted: re.Match[str]) -> str:
    """A literal, a name in quotes, which may be that of a function, or a comment."""
    return {"'": "''", '"': "quoted"}.get(quoted[0][0], " ")


def names_set(statement: str, parameters: object) -> Iterator[str]:
    """The names of custom settings in a statement, which the server does not list.

    Args:
        statement: its text.
        parameters: what is bound to it.
    """
    yield from _written(statement)
    if "set_config" in statement:
        values: Iterable[object] = ()
        if isinstance(parameters, dict):
            values = parameters.values()
        elif isinstance(parameters, list | tuple):
            values = parameters
        yield from (value for value in values if isinstance(value, str) and _NAME.fullmatch(value))


@lru_cache(maxsize=1000)
def _written(statement: str) -> tuple[str, ...]:
    return tuple(_NAMED.findall(statement))


@lru_cache(maxsize=1000)
def takes_role(statement: str) -> bool:
    """What follows it may be somebody else's doing, as far as permissions go."""
    return _ROLE.search(statement) is not None


@lru_cache(maxsize=1000)
def of_sequences(statement: str) -> str:
    """``moves`` a sequence, ``reads`` where one was left by this connection, ``forgets`` it, or nothing of these."""
    if _SEQUENCE_FORGOTTEN.search(statement):
        return "forgets"
    if _SEQUENCE_MOVED.search(statement):
        return "moves"
    return "reads" if _SEQUENCE_READ.search(statement) else ""
