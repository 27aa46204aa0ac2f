"""The texts inside a value: what a person would read, and what is packed in it."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator, Sequence

_UNPACK_LIMIT = 16 * 1024 * 1024
_DEPTH = 3


def views(value: str | bytes, marks: Sequence[str], depth: int = _DEPTH) -> Iterator[tuple[str, str, str]]:
    """The texts to search: (form, text, lower-cased text); the first one is the readable one.

    Args:
        value: a text, or bytes as they went over the wire.
        marks: what a text must hold, once its line breaks are gone, so that it is worth a look without them.
        depth: how often something packed may be packed in something packed.
    """
    if isinstance(value, bytes):
        unpacked = _unpack(value)
        if unpacked is not None and depth:
            for form, text, lowered in views(unpacked[1], marks, depth - 1):
                yield " in ".join(part for part in (form, unpacked[0]) if part), text, lowered
            return
        text, lowered = value.decode("latin-1"), value.lower().decode("latin-1")
    else:
        text, lowered = value, _lower(value)
    if "\0" in text:
        yield "UTF-16", text.replace("\0", ""), lowered.replace("\0", "")
    else:
        yield "", text, lowered
    if depth:
        yield from _packed_parts(value, text, marks, depth - 1)


def _packed_parts(value: str | bytes, text: str, marks: Sequence[str], depth: int) -> Iterator[tuple[str, str, str]]:
    """What is packed inside: a gzip member in a multipart body, compressed base64 in a cookie, base64 in lines."""
    if isinstance(value, bytes):
        for at in _positions(value, b"\x1f\x8b\x08"):
            if (unpacked := _unpack(value[at:])) is not None:
                yield from views(unpacked[1], marks, depth)
    if "H4sI" in text or "eJ" in text:
        for match in _COMPRESSED_BASE64.finditer(text):
            if (unpacked := _unpack(b64decode(match[0]))) is not None:
                for _, inner, lowered in views(unpacked[1], marks, depth):
                    yield f"compressed base64 ({unpacked[0]})", inner, lowered
    if "\\" in text and ("\\x00" in text or "\\u0000" in text):
        bare = text.replace("\\x00", "").replace("\\u0000", "")
        yield "escaped UTF-16", bare, _lower(bare)
    if "\n" in text:
        joined = text.replace("\n", "").replace("\r", "")
        if any(mark in joined for mark in marks):
            yield "lines", joined, ""


def _positions(data: bytes, needle: bytes) -> Iterator[int]:
    """Where a needle stands in the data, after its beginning."""
    at = data.find(needle, 1)
    while at >= 0:
        yield at
        at = data.find(needle, at + len(needle))


def _unpack(data: bytes) -> tuple[str, bytes] | None:
    """Gunzip or inflate, as far as the data goes and never past 16 MiB; None if it is not compressed."""
    if data[:3] == b"\x1f\x8b\x08":
        form, window = "gzip", 31
    elif len(data) > 2 and data[0] == 0x78 and (data[0] << 8 | data[1]) % 31 == 0:
        form, window = "zlib", 15
    else:
        return None
    try:
        return form, zlib.decompressobj(window).decompress(data, _UNPACK_LIMIT)
    except zlib.error:
        return None


def b64decode(run: str) -> bytes:
    """Decode standard or URL-safe base64, padded or not, cut anywhere; empty if it is none."""
    run = run.rstrip("=").replace("-", "+").replace("_", "/")
    run = run[: len(run) - (len(run) % 4 == 1)]
    try:
        return base64.b64decode(run + "=" * (-len(run) % 4))
    except binascii.Error:
        return b""


def _lower(text: str) -> str:
    lowered = text.lower()
    # A few letters change length (İ): then only ASCII is lowered, so that positions stay true.
    return lowered if len(lowered) == len(text) else text.translate(_ASCII_LOWER)


_ASCII_LOWER = {ord(c): ord(c) + 32 for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_COMPRESSED_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])(?:H4sI|eJ)[A-Za-z0-9+/_-]{16,}={0,2}")
