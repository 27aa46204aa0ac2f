"""The steps of a finding as a sequence diagram: a column for each task, a row for each turn; as text, and as SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

_TURN = re.compile(r"(?P<mark>[>* ]) +(?P<ms>[\d.]+) ms  (?P<who>[^:]+): (?P<what>.*)")
_CUT, _SHOWED = "cancelled ", "*"
_LANE, _ROW, _LEFT, _TOP, _LETTER = 110, 22, 80, 44, 7.3
_COLOURS = ("#1b6ac9", "#b3541e", "#2e7d32", "#7b1fa2", "#a0522d", "#00695c")


@dataclass(frozen=True, slots=True)
class Row:
    """A turn, or a remark between turns.

    Attributes:
        who: whose turn; empty is a remark.
        ms: virtual time, as it is printed; empty in a remark.
        what: from where to where it went.
        mark: ``>``, asyncio would have done otherwise; ``*``, here the fault showed; a space.
    """

    who: str
    ms: str
    what: str
    mark: str = " "

    @property
    def is_guilty(self) -> bool:
        """It has a part in what went wrong."""
        return self.mark != " "


def rows(steps: str) -> list[Row]:
    """Read the steps of a finding (``phases.interleaving.render``)."""
    found = []
    for line in steps.splitlines():
        match = _TURN.fullmatch(line)
        if match is None:
            found.append(Row("", "", line.strip(), ">" if line.startswith("!") else " "))
        else:
            found.append(Row(match["who"], match["ms"], match["what"], match["mark"]))
    return found


def participants(turns: Sequence[Row]) -> list[str]:
    """Who takes part: users by their labels, then everything else as it comes."""
    names = list(dict.fromkeys(row.who for row in turns if row.who))
    return sorted(names, key=lambda name: (not name.startswith("user-"), name if name.startswith("user-") else ""))


def text(steps: str) -> str:
    """A diagram for a terminal: ● ran, ✕ was cancelled, > asyncio would not have done, * is where the fault showed."""
    turns = rows(steps)
    names = participants(turns)
    wide = max([8, *map(len, names)]) + 2
    lines = [(" " * 14 + "".join(name.center(wide) for name in names)).rstrip()]
    for row in turns:
        signs = "".join(_sign(row, name).center(wide) for name in names)
        when = f"{row.ms:>7} ms" if row.ms else ""
        lines.append(f"{row.mark} {when:<11} {signs} {row.what}".rstrip())
    return "\n".join(lines)


def _sign(row: Row, name: str) -> str:
    if row.who != name:
        return "│"
    return "✕" if row.what.startswith(_CUT) else "●"


def svg(steps: str) -> str:
    """The same as a drawing that any browser shows; nothing is loaded from anywhere."""
    turns = rows(steps)
    names = participants(turns)
    lane = max([_LANE, *(int(len(name) * _LETTER) + 20 for name in names)])
    right = _LEFT + lane * len(names)
    width = right + int(max([0, *(len(row.what) for row in turns)]) * _LETTER) + 20
    height = _TOP + _ROW * (len(turns) + 1)
    root = Xml.Element("svg", xmlns="http://www.w3.org/2000/svg", width=str(width), height=str(height), role="img")
    Xml.SubElement(root, "title").text = "Who ran when"
    Xml.SubElement(root, "style").text = "text{font:12px monospace;fill:#222}.g{fill:#c62828;font-weight:bold}"
    Xml.SubElement(root, "rect", width="100%", height="100%", fill="#fff")
    middles = {name: _LEFT + lane * number + lane // 2 for number, name in enumerate(names)}
    for name, x in middles.items():
        _text(root, x, _TOP - 22, name, "middle")
        _line(root, (x, _TOP - 12), (x, height - 8), "#ccc")
    before: tuple[int, int] | None = None
    for number, row in enumerate(turns):
        here = (middles.get(row.who, right), _TOP + _ROW * number + _ROW // 2)
        if row.who and before is not None and before[0] != here[0]:
            _line(root, before, here, "#999", "3 3")
        _draw(root, row, here, right, _COLOURS[names.index(row.who) % len(_COLOURS)] if row.who else "#222")
        before = here if row.who else before
    return Xml.tostring(root, encoding="unicode")


def _draw(root: Xml.Element, row: Row, here: tuple[int, int], right: int, colour: str) -> None:
    x, y = here
    kind = "g" if row.is_guilty else ""
    if row.who:
        _text(root, _LEFT - 12, y + 4, f"{row.ms} ms", "end", kind)
        if row.what.startswith(_CUT):
            _text(root, x, y + 5, "✕", "middle", "g")
        else:
            Xml.SubElement(root, "circle", cx=str(x), cy=str(y), r="5", fill="#c62828" if row.is_guilty else colour)
        if row.mark == _SHOWED:
            Xml.SubElement(root, "circle", cx=str(x), cy=str(y), r="9", fill="none", stroke="#c62828")
    _text(root, right + 8, y + 4, row.what, "start", kind)


def _line(root: Xml.Element, start: tuple[int, int], end: tuple[int, int], colour: str, dashes: str = "") -> None:
    ends = {"x1": str(start[0]), "y1": str(start[1]), "x2": str(end[0]), "y2": str(end[1])}
    Xml.SubElement(root, "line", {**ends, "stroke": colour, **({"stroke-dasharray": dashes} if dashes else {})})


def _text(root: Xml.Element, x: int, y: int, said: str, anchor: str, kind: str = "") -> None:
    place = {"x": str(x), "y": str(y), "text-anchor": anchor}
    # What a browser would not show ends the whole drawing.
    shown = "".join(letter if letter.isprintable() else "�" for letter in said)
    Xml.SubElement(root, "text", {**place, **({"class": kind} if kind else {})}).text = shown
