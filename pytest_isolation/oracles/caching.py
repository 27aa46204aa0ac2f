"""No personal response may be kept by a shared cache: a proxy or CDN would hand it to the next who asks.

What such a cache may store, and answer with unasked, is for RFC 9111 to say (sections 3, 4.1 and 4.2). A response is
personal when it sets a cookie that others are not given under the same URL, or when its body bears a secret of the user
that the URL does not bear already.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_isolation.model import Evidence, Finding, Kind, Observation, Response, Run, Share
from pytest_isolation.shared_cache import joined, permit, varies
from pytest_isolation.users import canary
from pytest_isolation.users.cast import owner_of
from pytest_isolation.users.story import Story
from pytest_isolation.users.transcript import NOBODY, keys, labeller, leaves, place, rename, shorten

_PERSONAL_VARIANTS = frozenset({"cookie", "authorization"})


def cacheable_by_others(evidence: Evidence, story: Story) -> Iterator[Finding]:
    """A finding for every personal response that a shared cache may store: each user, method and URL once."""
    for run in evidence.runs:
        told: set[tuple[str, str]] = set()
        positions: dict[str, int] = {}
        for seen in run.observations:
            position = positions[seen.channel] = positions.get(seen.channel, -1) + 1
            response = seen.response
            if response is None or (response.method, response.url) in told:
                continue
            because = _personal(evidence, run, seen, response)
            how = _storable(response) if because else ""
            if how:
                told.add((response.method, response.url))
                yield _finding(evidence, run, seen, response, position, f"it {because}", how)


def _finding(
    evidence: Evidence, run: Run, seen: Observation, response: Response, position: int, because: str, how: str
) -> Finding:
    request = f"{response.method} {rename(response.url, labeller(evidence, NOBODY))}"
    return Finding(
        kind=Kind.CACHEABLE,
        user=run.user,
        phase=evidence.phase,
        summary=f"a shared cache may keep what {run.user} was answered to {shorten(request)}, and hand it to others: "
        f"{because}, and {how}. Send 'Cache-Control: private' or 'no-store', or 'Vary: Cookie'",
        channel=place(run, seen.channel, position, ""),
        replay=evidence.replay,
    )


def _personal(evidence: Evidence, run: Run, seen: Observation, response: Response) -> str:
    """Why a response is meant for one user only; empty if nothing says so."""
    public = {hit[:3] for hit in canary.find(response.url)}
    if not public and _differs(evidence, response):
        return "sets a cookie"
    own = {hit[:3]: hit for hit in _hits(seen.value) if _is_own(evidence, run, hit)}
    for identity, hit in own.items():
        name = evidence.names.get(hit.name, hit.name)
        shared = Share(run.number, name) in evidence.shares
        if identity not in public and not shared:
            return f"bears the secret {name!r} of {run.user}" if name else f"bears a secret of {run.user}, cut short"
    return ""


def _differs(evidence: Evidence, response: Response) -> bool:
    """It sets cookies that others are not given who ask for the same: so they are this user's."""
    given = {
        _cookies(seen.response)
        for run in evidence.runs
        for seen in run.observations
        if seen.response is not None and (seen.response.method, seen.response.url) == (response.method, response.url)
    }
    return bool(_cookies(response)) and len(given) > 1


def _cookies(response: Response) -> tuple[str, ...]:
    return tuple(value for name, value in response.headers if name.lower() == "set-cookie")


def _is_own(evidence: Evidence, run: Run, hit: canary.Hit) -> bool:
    return owner_of(evidence, hit) == run.number


def _hits(value: object) -> Iterator[canary.Hit]:
    for leaf in leaves(value):
        if (text := canary.searchable(leaf.value)) is not None:
            yield from canary.find(text)
    for key in keys(value):
        yield from canary.find(key)


def _storable(response: Response) -> str:
    """What lets a shared cache hand a personal response to others; empty if nothing does."""
    permitted = permit(response)
    # Whatever names the user in the request, be it a header of the team's own.
    personal = _PERSONAL_VARIANTS | {name.lower() for name, value in response.asked if canary.find(value)}
    if permitted is None or varies(response) & personal:
        return ""
    # Caches keep what only forbids nothing by its Last-Modified; some do in any case, and a kept cookie logs others in.
    if permitted.said or any(joined(response, name) for name in ("set-cookie", "last-modified")):
        return permitted.because
    return ""
