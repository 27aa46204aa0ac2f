"""No personal response may be kept by a shared cache."""

from dataclasses import replace

import pytest

from pytest_isolation.model import Kind, Observation, Response
from pytest_isolation.oracles.caching import cacheable_by_others
from pytest_isolation.users.story import Story

SILENT = Story(())
URL = "https://shop.test/me"


def findings(stage, user, *answers):
    """What the oracle says of a user who was answered so: each a body and a response."""
    observations = tuple(Observation("response", body, response) for body, response in answers)
    return list(cacheable_by_others(stage.evidence(replace(stage.run(user), observations=observations)), SILENT))


def answer(status=200, method="GET", url=URL, authorized=False, **headers):
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(method, url, status, named, (("Authorization", "Bearer me"),) if authorized else ())


STORABLE = {
    "it has an age": answer(Last_Modified="Tue, 24 Nov 2026 10:00:00 GMT"),
    "it sets a cookie": answer(Set_Cookie="session=1"),
    "it is public": answer(Cache_Control="public"),
    "it is fresh for some time": answer(Cache_Control="max-age=60"),
    "it is fresh for shared caches": answer(Cache_Control="max-age=0, s-maxage=60"),
    "in capitals": answer(CACHE_CONTROL="MAX-AGE=60"),
    "it expires later": answer(Expires="Tue, 24 Nov 2026 11:00:00 GMT", Date="Tue, 24 Nov 2026 10:00:00 GMT"),
    "an error that is kept for long": answer(500, Cache_Control="max-age=60"),
    "a page that is not found": answer(404, Last_Modified="Tue, 24 Nov 2026 10:00:00 GMT"),
    "the head of it": answer(method="HEAD", Cache_Control="public"),
    "it varies with something else": answer(Vary="Accept-Encoding", Cache_Control="max-age=60"),
    "one header alone is private": answer(Cache_Control='max-age=60, private="Set-Cookie, X-Id"'),
    "it was authorized, and is public": answer(authorized=True, Cache_Control="public"),
    "it was authorized, and shared caches are named": answer(authorized=True, Cache_Control="s-maxage=9"),
}
SAFE = {
    "nothing is said": answer(),
    "it is private": answer(Cache_Control="private, max-age=60"),
    "it is not to be stored": answer(Cache_Control="no-store"),
    "it is not to be stored, in a second header": Response(
        "GET", URL, 200, (("Cache-Control", "max-age=60"), ("cache-control", "no-store"))
    ),
    "it must be asked for again": answer(Cache_Control="no-cache"),
    "it is stale at once": answer(Cache_Control="max-age=0"),
    "it is stale at once for shared caches": answer(Cache_Control="max-age=60, s-maxage=0"),
    "its age is no number": answer(Cache_Control="max-age=soon"),
    "it has expired": answer(Expires="Thu, 01 Jan 1970 00:00:00 GMT", Date="Tue, 24 Nov 2026 10:00:00 GMT"),
    "it expires at no date": answer(Expires="0", Date="Tue, 24 Nov 2026 10:00:00 GMT"),
    "it varies with the cookie": answer(Vary="Accept-Encoding, cookie", Cache_Control="max-age=60"),
    "it varies with the authorization": answer(Vary="Authorization", Cache_Control="public"),
    "it varies with anything": answer(Vary="*", Cache_Control="public"),
    "it answers a POST": answer(method="POST", Cache_Control="public"),
    "it is an error": answer(500),
    "it was authorized": answer(authorized=True, Cache_Control="max-age=60"),
}


@pytest.mark.parametrize("case", STORABLE)
def test_a_personal_response_that_a_shared_cache_may_keep_is_a_finding(stage, case):
    """Its body bears the user's own secret."""
    user = stage.users[0]
    [finding] = findings(stage, user, ({"note": user.secret("note")}, STORABLE[case]))
    assert (finding.kind, finding.user, finding.channel) == (Kind.CACHEABLE, "user-00", "response")


@pytest.mark.parametrize("case", SAFE)
def test_its_correct_twin_is_none(stage, case):
    """No shared cache may keep it, or answer with it unasked."""
    user = stage.users[0]
    assert findings(stage, user, ({"note": user.secret("note")}, SAFE[case])) == []


def test_a_header_of_the_request_that_names_the_user_may_tell_answers_apart(stage):
    """Some applications know their users by one of their own."""
    user = stage.users[0]
    named = Response("GET", URL, 200, (("Vary", "X-User"), ("Cache-Control", "public")), (("X-User", user.id),))
    assert findings(stage, user, (user.id, named)) == []
    assert len(findings(stage, user, (user.id, replace(named, asked=(("X-User", "alice"),))))) == 1


def test_the_finding_says_what_why_and_what_to_do(stage):
    """With the line to write."""
    user = stage.users[0]
    [finding] = findings(stage, user, ({user.secret("note"): 1}, answer(Cache_Control="max-age=60")))
    assert finding.summary == (
        "a shared cache may keep what user-00 was answered to GET https://shop.test/me, and hand it to others: it bears "
        "the secret 'note' of user-00, and its Cache-Control says max-age=60. Send 'Cache-Control: private' or "
        "'no-store', or 'Vary: Cookie'"
    )
    assert finding.replay == "crowd:3:1"


def of_two(stage, *cookies):
    """What the oracle says of two users who are given these cookies under one URL."""
    runs = [
        replace(stage.run(user), observations=(Observation("response", "hello", answer(Set_Cookie=cookie)),))
        for user, cookie in zip(stage.users[:2], cookies, strict=True)
    ]
    return list(cacheable_by_others(stage.evidence(*runs), SILENT))


def test_a_response_that_sets_a_cookie_of_ones_own_is_personal(stage):
    """Whatever is in it."""
    assert ["it sets a cookie" in finding.summary for finding in of_two(stage, "session=1", "session=2")] == [
        True,
        True,
    ]


def test_a_cookie_that_all_are_given_is_nobodys(stage):
    """A theme, the name of a server, one that is taken back."""
    assert of_two(stage, "theme=dark", "theme=dark") == []


def test_a_response_without_anything_personal_is_none(stage):
    """Nor is one without a response at all."""
    user = stage.users[0]
    assert findings(stage, user, ("hello", answer()), (user.secret("note"), None)) == []


def test_what_the_url_says_already_is_not_personal(stage):
    """A cache keeps it under that URL only."""
    user = stage.users[0]
    assert findings(stage, user, (user.id, answer(url=f"{URL}?user={user.id}", Cache_Control="public"))) == []
    assert findings(stage, user, ("hello", answer(url=f"{URL}?user={user.id}", Set_Cookie="session=1"))) == []
    [finding] = findings(
        stage, user, ([user.id, user.number("amount")], answer(url=f"{URL}?user={user.id}", Cache_Control="public"))
    )
    assert "GET https://shop.test/me?user=<id of user-00>" in finding.summary
    assert "the secret 'amount' of user-00" in finding.summary


def test_what_is_shared_with_everybody_is_not_personal(stage):
    """What is shared with one is."""
    alice, bob, _ = stage.users
    alice.share("post")
    alice.share("note", bob)
    assert findings(stage, alice, (alice.secret("post"), answer(Cache_Control="public"))) == []
    assert len(findings(stage, alice, (alice.secret("note"), answer(Cache_Control="public")))) == 1


def test_each_url_is_reported_once_for_each_user(stage):
    """However often it was asked for."""
    user = stage.users[0]
    again = [(user.id, answer(Cache_Control="public"))] * 3
    found = findings(stage, user, *again, (user.id, answer(url=f"{URL}/cart", Cache_Control="public")))
    assert [finding.channel for finding in found] == ["response 1 of 4", "response 4 of 4"]
