"""Canaries: planted secrets that say by themselves whose they are.

A canary is lower-case letters and digits, so that no escaping touches it, and carries a fixed prefix, the key of its
cast, its owner, its name and two check sums:

    cnryx  0k3f  0007  q1z    6  secret  8m
    prefix key   owner check  n  name    check

So one pass finds any canary of anyone, whatever the number of users, and a worker on another machine can judge alone.
The first check sum comes early: a canary that was cut short still names its owner. In base64 no canary contains
``+``, ``/`` or ``=`` (six-bit groups of ASCII letters and digits never reach 62), so all variants look alike there.
A numeric canary is fifteen decimal digits (below 2**53, exact in JSON and in a double) built the same way. Four of them
are the owner's; the key of those who come after the first 10,000 counts on, by one for each 10,000.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from pytest_isolation.users.unpack import b64decode, views

PREFIX = "cnryx"
NUMBER_PREFIX = "7717"
KEYS = 36**4
OWNERS = 36**4
NUMBER_OWNERS = 10**4
_NUMBER_KEYS = 10**3
NAME_LENGTH = 12
SMALLEST_NUMBER = 10**14

_HEAD = len(PREFIX) + 4 + 4 + 3
_LONGEST = _HEAD + 1 + NAME_LENGTH + 2
_NUMBER_LENGTH = 15
SHORTEST = _NUMBER_LENGTH
_NEVER = (bool, type(None))
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Hit(NamedTuple):
    """A canary found in a text.

    Attributes:
        key: the key of its cast; four characters, or three digits for a number.
        owner: the number of the user whose secret it is; of a number its last four digits (see ``owner_in``).
        name: the name as it stands in the canary (for a number its code, ``#3``); empty when it was cut short.
        form: how it was written; empty when plain.
        start: where in the text it begins.
        stop: where it ends.
        rest: of one that was cut short, what is left of the length and the name.
    """

    key: str
    owner: int
    name: str
    form: str
    start: int
    stop: int
    rest: str = ""


class _Canary(NamedTuple):
    key: str
    owner: int
    name: str
    length: int
    rest: str = ""


def encode_key(number: int) -> str:
    """The key of a cast, as its canaries carry it."""
    return _base36(number % KEYS, 4)


def number_key(key: str, owner: int = 0) -> str:
    """The three digits that stand for the key in a numeric canary of this owner."""
    return f"{(int(key, 36) + owner // NUMBER_OWNERS) % _NUMBER_KEYS:03d}"


def owner_in(key: str, hit: Hit, known: Container[int]) -> int | None:
    """The number of the user of a cast whose canary was found; None if it is another cast's.

    Args:
        key: of the cast.
        hit: what was found.
        known: the numbers of its users. Three digits of key may be another cast's by chance: beyond the first 10,000
            only a number counts that somebody has.
    """
    if not hit.name.startswith("#"):
        return hit.owner if hit.key == key else None
    rounds = (int(hit.key) - int(key, 36)) % _NUMBER_KEYS
    owner = rounds * NUMBER_OWNERS + hit.owner
    return owner if not rounds or owner in known else None


def slug(name: str) -> str:
    """What of a secret's name fits into a canary: at most 12 lower-case letters and digits."""
    return "".join(c for c in name.lower() if c in _DIGITS)[:NAME_LENGTH] or "x"


def mint(key: str, owner: int, name: str) -> str:
    """Make the canary of one user and name.

    Args:
        key: from ``encode_key``.
        owner: 0 ≤ owner < 36**4.
        name: 1 to 12 lower-case letters and digits, see ``slug``.

    Raises:
        ValueError: a part does not fit.
    """
    if not (0 <= owner < OWNERS and len(key) == 4 and name == slug(name)):
        raise ValueError(f"no canary has key {key!r}, owner {owner!r} and name {name!r}")
    head = f"{PREFIX}{key}{_base36(owner, 4)}"
    body = f"{head}{_check(head, 3)}{_DIGITS[len(name)]}{name}"
    return body + _check(body, 2)


def mint_number(key: str, owner: int, code: int) -> int:
    """Make a numeric canary: fifteen digits.

    Args:
        key: from ``encode_key``.
        owner: 0 ≤ owner < 36**4.
        code: which of the cast's numbers, 0 ≤ code < 100.

    Raises:
        ValueError: a part does not fit.
    """
    if not (0 <= owner < OWNERS and 0 <= code < 100):
        raise ValueError(f"no numeric canary has owner {owner!r} and code {code!r}: 100 names fit")
    body = f"{NUMBER_PREFIX}{number_key(key, owner)}{owner % NUMBER_OWNERS:04d}{code:02d}"
    return int(body + _check_digits(body))


def searchable(value: object) -> str | bytes | None:
    """The text of a plain value in which a canary can hide, None if there is none."""
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, int | float) and SMALLEST_NUMBER <= abs(value) < 10 * SMALLEST_NUMBER and value == int(value):
        return str(abs(int(value)))  # JavaScript, spreadsheets and SQL hand back the same number as a float
    return None


def fits(name: str, rest: str) -> bool:
    """Whether a name, as canaries carry it, may be that of one that was cut short.

    Args:
        name: see ``slug``.
        rest: what is left of it (``Hit.rest``); after it anything may follow.
    """
    whole = f"{_DIGITS[len(name)]}{name}"
    return whole.startswith(rest) or rest.startswith(whole)


def may_hold(text: str) -> bool:
    """A text so short that it seldom is worth a search, such as a path: whether it is."""
    return len(text) >= SHORTEST and bool(find(text))


def suspects(values: Sequence[object]) -> Container[int]:
    """The indexes of those of many plain values that are worth a search each; all others are searched in one go."""
    some, rest = set(), []
    for index, value in enumerate(values):
        if type(value) in _NEVER:
            continue
        text = value if type(value) is str else searchable(value)
        if isinstance(text, bytes) or (text is not None and PREFIX in text):
            some.add(index)
        elif text is not None:
            rest.append(text)
    # No form of a canary goes across the end of a line, apart from base64 that is broken into lines.
    return range(len(values)) if find("\n".join(rest)) else some


def find(value: str | bytes) -> list[Hit]:
    """Every canary in a text, of anybody, plain or encoded, in order.

    Finds it plain in any case, reversed, in JSON, URL and HTML escapes, in base64 at any alignment, in hex, UTF-16
    and UTF-32, gzip and zlib, and in compressed base64. Positions refer to the text in which it was found, which is
    the value itself unless it had to be unpacked.

    Args:
        value: a text, or bytes as they went over the wire.
    """
    hits: list[Hit] = []
    for form, text, lowered in views(value, _BASE64_MARKS):
        for hit in _find_in(text, lowered):
            both = " in ".join(part for part in (hit.form, form) if part)
            hits.append(hit._replace(form=both))
    return sorted(set(hits), key=lambda hit: hit.start)


def read(value: str | bytes) -> tuple[str, list[Hit]]:
    """The text as a person would read it (unpacked, without the NULs of UTF-16) and the canaries in it, in order."""
    _, text, lowered = next(views(value, _BASE64_MARKS))
    return text, sorted(_find_in(text, lowered), key=lambda hit: hit.start)


def _find_in(text: str, lowered: str) -> Iterator[Hit]:
    for form, needle, decode in _LOWER_NEEDLES:
        yield from _find_form(form, needle, decode, lowered)
    for form, needle, decode in _BASE64_NEEDLES:
        yield from _find_form(form, needle, decode, text)
    for mark, needles in _ESCAPES:
        if mark in lowered:
            for form, needle, decode in needles:
                yield from _find_form(form, needle, decode, lowered)
    if NUMBER_PREFIX in lowered:
        yield from _find_numbers(lowered)


_Decode = Callable[[str, int], "tuple[_Canary, int, int] | None"]


def _find_form(form: str, needle: str, decode: _Decode, text: str) -> Iterator[Hit]:
    at = text.find(needle)
    while at >= 0:
        found = decode(text, at)
        if found is None:
            at = text.find(needle, at + 1)
            continue
        canary, start, stop = found
        yield Hit(canary.key, canary.owner, canary.name, form, start, stop, canary.rest)
        at = text.find(needle, max(stop, at + 1))


def _parse(text: str) -> _Canary | None:
    """Read the canary at the start of a lower-case text, whole or cut short after its head."""
    head = text[: _HEAD - 3]
    if len(text) < _HEAD or text[_HEAD - 3 : _HEAD] != _check(head, 3) or not head.startswith(PREFIX):
        return None
    key, owner = head[5:9], head[9:13]
    if not (_is_base36(key) and _is_base36(owner)):
        return None
    length = _DIGITS.find(text[_HEAD : _HEAD + 1]) if len(text) > _HEAD else 0
    body = text[: _HEAD + 1 + length]
    if 1 <= length <= NAME_LENGTH and text[len(body) : len(body) + 2] == _check(body, 2):
        return _Canary(key, int(owner, 36), body[_HEAD + 1 :], len(body) + 2)
    rest = _REST.match(text, _HEAD)
    return _Canary(key, int(owner, 36), "", _HEAD, rest[0] if rest else "")


def _plain(text: str, at: int) -> tuple[_Canary, int, int] | None:
    canary = _parse(text[at : at + _LONGEST])
    return canary and (canary, at, at + canary.length)


def _reversed(text: str, at: int) -> tuple[_Canary, int, int] | None:
    end = at + len(PREFIX)
    canary = _parse(text[max(0, end - _LONGEST) : end][::-1])
    return canary and (canary, end - canary.length, end)


def _escaped(run: re.Pattern[str], width: int, decode: Callable[[str], str]) -> _Decode:
    """A decoder for escapes that all have the same width."""

    def read(text: str, at: int) -> tuple[_Canary, int, int] | None:
        match = run.match(text, at, at + width * _LONGEST)
        canary = _parse(decode(match[0])) if match else None
        return canary and (canary, at, at + width * canary.length)

    return read


def _html(run: re.Pattern[str], base: int) -> _Decode:
    """A decoder for numeric character references, whose widths differ."""

    def read(text: str, at: int) -> tuple[_Canary, int, int] | None:
        match = run.match(text, at, at + 8 * _LONGEST)
        if match is None:
            return None
        parts = match[0].split(";")[:-1]
        canary = _parse("".join(chr(int(part.lstrip("&#x"), base) & 0x7F) for part in parts))
        return canary and (canary, at, at + sum(len(part) + 1 for part in parts[: canary.length]))

    return read


def _base64(offset: int) -> _Decode:
    """A decoder for a canary that begins at byte ``offset`` of a group of three."""

    def read(text: str, at: int) -> tuple[_Canary, int, int] | None:
        group = at - _SKIPPED[offset]
        if group < 0:
            return None
        match = _BASE64_RUN.match(text, group, group + 4 * ((offset + _LONGEST + 2) // 3))
        canary = _parse(b64decode(match[0]).decode("latin-1")[offset:]) if match else None
        if canary is None:
            return None
        # Every character that carries a bit of the canary belongs to it.
        return canary, group + offset * 8 // 6, group + -(-(offset + canary.length) * 8 // 6)

    return read


def _find_numbers(text: str) -> Iterator[Hit]:
    at = text.find(NUMBER_PREFIX)
    while at >= 0:
        match = _NUMBER.match(text, at)
        if match and _check_digits(match[0][:-2]) == match[0][-2:]:
            body = match[0]
            yield Hit(body[4:7], int(body[7:11]), f"#{int(body[11:13])}", "", at, match.end())
        at = text.find(NUMBER_PREFIX, at + 1)


def _base36(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def _is_base36(text: str) -> bool:
    return all(c in _DIGITS for c in text)


def _check(text: str, width: int) -> str:
    return _base36(zlib.crc32(text.encode("latin-1", "replace")) % 36**width, width)


def _check_digits(text: str) -> str:
    return f"{zlib.crc32(text.encode()) % 97:02d}"


# In base64 the characters that a canary's prefix determines alone, wherever it begins in a group of three bytes.
_SKIPPED = (0, 2, 3)


def _base64_needle(offset: int) -> str:
    text = base64.b64encode(b"\0" * offset + PREFIX.encode()).decode()
    return text[_SKIPPED[offset] : (offset + len(PREFIX)) * 8 // 6]


_BASE64_RUN = re.compile(r"[A-Za-z0-9+/_-]+")
_REST = re.compile(r"[1-9abc][0-9a-z]{0,13}")
_NUMBER = re.compile(rf"(?<!\d){NUMBER_PREFIX}\d{{{_NUMBER_LENGTH - len(NUMBER_PREFIX)}}}(?!\d)", re.ASCII)

_LOWER_NEEDLES: tuple[tuple[str, str, _Decode], ...] = (
    ("", PREFIX, _plain),
    ("reversed", PREFIX[::-1], _reversed),
    (
        "hex",
        PREFIX.encode().hex(),
        _escaped(re.compile(r"(?:[0-9a-f]{2})+"), 2, lambda run: bytes.fromhex(run).decode("latin-1")),
    ),
)
_BASE64_NEEDLES: tuple[tuple[str, str, _Decode], ...] = tuple(
    ("base64", _base64_needle(offset), _base64(offset)) for offset in range(3)
)
_BASE64_MARKS = tuple(needle for _, needle, _ in _BASE64_NEEDLES)
_C, _N = (f"{ord(c):x}" for c in PREFIX[:2])
# Each is looked for only in a text that has its mark at all; finding one character costs next to nothing.
_ESCAPES: tuple[tuple[str, tuple[tuple[str, str, _Decode], ...]], ...] = (
    ("%", (("URL escapes", f"%{_C}%{_N}", _escaped(re.compile(r"(?:%[0-9a-f]{2})+"), 3, unquote)),)),
    (
        "\\",
        (
            (
                "JSON escapes",
                f"\\u00{_C}\\u00{_N}",
                _escaped(
                    re.compile(r"(?:\\u00[0-9a-f]{2})+"),
                    6,
                    lambda run: bytes.fromhex(run.replace("\\u00", "")).decode("latin-1"),
                ),
            ),
            (
                "string escapes",
                f"\\x{_C}\\x{_N}",
                _escaped(
                    re.compile(r"(?:\\x[0-9a-f]{2})+"),
                    4,
                    lambda run: bytes.fromhex(run.replace("\\x", "")).decode("latin-1"),
                ),
            ),
        ),
    ),
    (
        "&",
        (
            ("HTML escapes", "".join(f"&#{ord(c)};" for c in PREFIX[:2]), _html(re.compile(r"(?:&#\d{1,3};)+"), 10)),
            ("HTML escapes", f"&#x{_C};&#x{_N};", _html(re.compile(r"(?:&#x[0-9a-f]{1,2};)+"), 16)),
        ),
    ),
)
