"""What a shared cache, a proxy or CDN that answers many, may keep and answer with unasked (RFC 9111; pure).

Sections 3 (storing), 4.1 (``Vary``) and 4.2 (freshness).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import inf

from pytest_isolation.model import Response

# Of these a cache may think up how long they are fresh (RFC 9110, section 15.1); it need not understand ranges.
_HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
# Any of these lets a shared cache keep the answer to a request that was authorized (RFC 9111, section 3.5).
_DESPITE_AUTHORIZATION = frozenset({"public", "s-maxage", "must-revalidate"})


@dataclass(frozen=True, slots=True)
class Permit:
    """A shared cache may keep a response.

    Attributes:
        because: what says so, in words.
        fresh_s: for how long it may answer with it unasked.
        said: the response says so; otherwise nothing in it forbids it.
    """

    because: str
    fresh_s: float = inf
    said: bool = True


def permit(response: Response) -> Permit | None:
    """Whether a shared cache may keep a response and answer with it unasked; to whom is for ``varies`` to say."""
    directives = _directives(response)
    if response.method.upper() not in ("GET", "HEAD") or response.status < 200 or response.status in (206, 304):
        return None
    if "*" in varies(response) or "no-store" in directives:
        return None
    # With names of headers, as in private="Set-Cookie", only those are kept from the cache.
    if any(directives.get(name) == "" for name in ("private", "no-cache")):
        return None
    authorized = any(name.lower() == "authorization" for name, _ in response.asked)
    if authorized and not _DESPITE_AUTHORIZATION & directives.keys():
        return None
    return _fresh(response, directives)


def varies(response: Response) -> frozenset[str]:
    """The request headers that a response depends on, in lower case."""
    return frozenset(field.strip().lower() for field in joined(response, "vary").split(",") if field.strip())


def joined(response: Response, wanted: str) -> str:
    """All values of a header, by its name in lower case; empty if it is not there."""
    return ", ".join(value for name, value in response.headers if name.lower() == wanted)


def _fresh(response: Response, directives: Mapping[str, str]) -> Permit | None:
    """For how long a cache may take it for fresh; what is stale at once has to be asked for again."""
    for name in ("s-maxage", "max-age"):
        if name in directives:
            age_s = _seconds(directives[name])
            return Permit(f"its Cache-Control says {name}={directives[name]}", age_s) if age_s else None
    if expires := joined(response, "expires"):
        left_s = _until(expires, joined(response, "date"))
        return Permit(f"it Expires: {expires}", left_s) if left_s > 0 else None
    if "public" in directives:
        return Permit("its Cache-Control says public")
    if response.status in _HEURISTIC:
        return Permit(f"it has status {response.status} and nothing that forbids it", said=False)
    return None


def _directives(response: Response) -> Mapping[str, str]:
    """The directives of Cache-Control in lower case, each with its argument or an empty text."""
    found: dict[str, str] = {}
    for directive in _split(joined(response, "cache-control")):
        name, _, argument = directive.partition("=")
        # Of one that stands there twice, the first counts (section 4.2.1).
        found.setdefault(name.strip().lower(), argument.strip().strip('"'))
    return found


def _split(text: str) -> Iterator[str]:
    """The parts between commas, apart from those that are quoted."""
    part, quoted = "", False
    for character in text:
        quoted ^= character == '"'
        if character == "," and not quoted:
            yield part
            part = ""
        else:
            part += character
    yield part


def _seconds(text: str) -> int:
    """A number of seconds; one that is none is stale (section 4.2.1)."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _until(expires: str, date: str) -> float:
    """For how long it is fresh, from when it was sent; a date that is none has passed already (section 5.3)."""
    try:
        return (parsedate_to_datetime(expires) - parsedate_to_datetime(date)).total_seconds()
    except (TypeError, ValueError):  # the first: one with a zone and one without
        return 0.0
