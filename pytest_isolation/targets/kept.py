"""The answers that a shared cache keeps, each for whom and for how long it may (RFC 9111; knows no socket)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from pytest_isolation.model import Response
from pytest_isolation.shared_cache import permit, varies

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_REFUSALS = ("no-store", "no-cache", "max-age=0")


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that was kept.

    Attributes:
        response: its head.
        body: of it.
        asked: the request headers that it depends on, each as it was.
        since: when it came, on the cache's clock.
        fresh_s: for how long it may be answered with unasked.
    """

    response: Response
    body: bytes
    asked: Mapping[str, str]
    since: float
    fresh_s: float


class SharedCache:
    """One cache for everybody; what is stale is asked for again as if it had never been there.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._kept: defaultdict[str, list[Kept]] = defaultdict(list)

    def find(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[Kept, int] | None:
        """The answer to a request, if one was kept, and how many seconds ago.

        Args:
            method: of the request.
            url: of the request, with its query.
            headers: of the request, by their names in lower case.
        """
        if method != "GET" or any(word in headers.get("cache-control", "").lower() for word in _REFUSALS):
            return None
        now = self._clock()
        for kept in self._kept[url]:
            if now - kept.since < kept.fresh_s and kept.asked == _asked(kept.response, headers):
                return kept, int(now - kept.since)
        return None

    def hear(self, response: Response, body: bytes) -> None:
        """Keep an answer if that is permitted; one to a request that changes something makes others invalid (4.4).

        Args:
            response: its head; the URL is the same text as the one that is looked for, header names are in lower case.
            body: of the response.
        """
        if response.method not in _SAFE and response.status < 400:
            self._kept.pop(response.url, None)
        permitted, headers = permit(response), dict(response.asked)
        if response.method != "GET" or permitted is None or "no-store" in headers.get("cache-control", "").lower():
            return
        asked = _asked(response, headers)
        others = [kept for kept in self._kept[response.url] if kept.asked != asked]
        self._kept[response.url] = [*others, Kept(response, body, asked, self._clock(), permitted.fresh_s)]


def _asked(response: Response, headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers.get(name, "") for name in varies(response)}
