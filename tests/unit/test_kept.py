"""What a shared cache answers with, and what it does not."""

import pytest

from pytest_isolation.model import Response
from pytest_isolation.targets.kept import SharedCache

FRESH = (("Cache-Control", "max-age=60"),)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(clock):
    return SharedCache(clock)


def response(*headers, method="GET", status=200, **asked):
    asked = tuple((name.replace("_", "-"), value) for name, value in asked.items())
    return Response(method, "/me", status, headers, asked)


def test_an_answer_is_kept_for_everybody(cache, clock):
    """With its age."""
    cache.hear(response(*FRESH, cookie="alice"), b"alice")
    clock.now = 7.5
    kept, age_s = cache.find("GET", "/me", {"cookie": "bob"})
    assert (kept.body, age_s) == (b"alice", 7)


def test_it_is_kept_for_as_long_as_it_is_fresh(cache, clock):
    """Then the application is asked again."""
    cache.hear(response(*FRESH), b"alice")
    clock.now = 60.0
    assert cache.find("GET", "/me", {}) is None


def test_an_answer_that_varies_is_kept_for_each_kind_of_request(cache):
    """A header that is missing is one of them."""
    for name in ("alice", "bob", ""):
        asked = {"cookie": name} if name else {}
        cache.hear(response(*FRESH, ("Vary", "Accept, Cookie"), **asked), name.encode())
    found = [cache.find("GET", "/me", {"cookie": name})[0].body for name in ("alice", "bob")]
    assert (found, cache.find("GET", "/me", {})[0].body) == ([b"alice", b"bob"], b"")
    assert cache.find("GET", "/me", {"cookie": "carol"}) is None


def test_a_newer_answer_takes_the_place_of_an_older(cache):
    """There is one for each kind of request."""
    cache.hear(response(*FRESH), b"old")
    cache.hear(response(*FRESH), b"new")
    assert cache.find("GET", "/me", {})[0].body == b"new"


@pytest.mark.parametrize(
    "refused",
    [
        response(("Cache-Control", "private")),
        response(("Vary", "*"), *FRESH),
        response(*FRESH, status=206),
        response(*FRESH, authorization="Bearer me"),
        response(*FRESH, method="HEAD"),
        response(*FRESH, method="POST"),
    ],
)
def test_what_may_not_be_kept_is_not(cache, refused):
    """RFC 9111, section 3."""
    cache.hear(refused, b"alice")
    assert cache.find("GET", "/me", {}) is None


@pytest.mark.parametrize("words", ["no-cache", "no-store", "max-age=0"])
def test_who_wants_no_cache_is_not_answered_by_one(cache, words):
    """The request says so (section 5.2.1)."""
    cache.hear(response(*FRESH), b"alice")
    assert cache.find("GET", "/me", {"cache-control": words}) is None


def test_what_asked_not_to_be_kept_is_not(cache):
    """The request says that too."""
    cache.hear(response(*FRESH, cache_control="no-store"), b"alice")
    assert cache.find("GET", "/me", {}) is None


@pytest.mark.parametrize(
    ("method", "status", "is_kept"), [("POST", 200, False), ("DELETE", 204, False), ("POST", 500, True)]
)
def test_a_change_makes_what_was_kept_invalid(cache, method, status, is_kept):
    """Unless it failed (section 4.4)."""
    cache.hear(response(*FRESH), b"alice")
    cache.hear(response(method=method, status=status), b"")
    assert (cache.find("GET", "/me", {}) is not None) is is_kept
