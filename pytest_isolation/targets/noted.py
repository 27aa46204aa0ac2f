"""What somebody has noted in the ``info`` of a connection of SQLAlchemy, which outlives each loan."""

from __future__ import annotations

from typing import Any

from pytest_isolation.users import canary

_LONGEST = 80
_PLAIN = (str, bytes, int, float, bool, type(None))


def noted(entry: Any) -> dict[str, str]:
    """``{"info['user']": " = 'alice'"}``; of what is no plain value it is told which object it is."""
    return {
        f"{which}[{key!r}]": f" = {_shown(value)}"
        for which in ("info", "record_info")
        for key, value in [*getattr(entry, which).items()]
    }


def is_note(what: str) -> bool:
    """It is the name of a note."""
    return what.startswith(("info[", "record_info["))


def _shown(value: object) -> str:
    said = repr(value)
    if any(True for _ in canary.find(said)):  # nothing of a secret is cut
        return said
    text = said if isinstance(value, _PLAIN) else object.__repr__(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
