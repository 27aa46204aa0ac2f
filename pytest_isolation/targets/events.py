"""Server-sent events, taken from a stream as they come (WHATWG HTML, section 9.2.6; knows no socket)."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping

_LINE_END = re.compile(r"\r\n|\n|\r")


class EventStream:
    """Reads events; one that has no data is none."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._fields: dict[str, str] = {}
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Mapping[str, str]]:
        """The events that are whole with this chunk: each its ``data``, and its ``event`` and ``id`` if it has them."""
        text = self._rest + self._decoder.decode(chunk)
        while (end := _LINE_END.search(text)) and not (end.group() == "\r" and end.end() == len(text)):
            line, text = text[: end.start()], text[end.end() :]
            if line:
                self._take(line)
            elif self._data:
                yield {**self._fields, "data": "\n".join(self._data)}
            if not line:
                self._fields, self._data = {}, []
        self._rest = text

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name in ("event", "id"):
            self._fields[name] = value
