"""A canary is found in whatever form it arrives, and nothing else is taken for one."""

import base64
import gzip
import html
import json
import random
import string
import zlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.users import canary
from pytest_isolation.users.canary import Hit, encode_key, find, mint, mint_number, number_key, read, slug

KEY = encode_key(777)
SECRET = mint(KEY, 7, "note")

keys = st.integers(0, canary.KEYS - 1).map(encode_key)
owners = st.integers(0, canary.OWNERS - 1)
names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
# With a NUL in it a text is taken for UTF-16.
plain_text = st.text(st.characters(exclude_characters="\0"), max_size=20)
FORMS = {
    "": [SECRET, SECRET.upper(), SECRET.title(), f"…{SECRET}…", f'{{"a": "{SECRET}"}}', SECRET.encode()],
    "reversed": [SECRET[::-1], SECRET[::-1].upper()],
    "hex": [SECRET.encode().hex(), SECRET.encode().hex().upper()],
    "base64": [
        base64.b64encode(b"x" * before + SECRET.encode() + b"y" * after).decode()
        for before in range(3)
        for after in range(3)
    ]
    + [base64.urlsafe_b64encode(json.dumps({"sub": SECRET}).encode()).decode()],
    "URL escapes": ["".join(f"%{byte:02X}" for byte in SECRET.encode()), "".join(f"%{b:02x}" for b in SECRET.encode())],
    "JSON escapes": ["".join(f"\\u{ord(c):04x}" for c in SECRET)],
    "string escapes": ["".join(f"\\x{ord(c):02x}" for c in SECRET)],
    "HTML escapes": ["".join(f"&#{ord(c)};" for c in SECRET), "".join(f"&#x{ord(c):X};" for c in SECRET)],
    "UTF-16": [SECRET.encode("utf-16"), SECRET.encode("utf-16-be"), SECRET.encode("utf-32"), "\0".join(SECRET)],
    "escaped UTF-16": [repr(SECRET.encode("utf-16-le")), json.dumps("\0".join(SECRET))],
    "gzip": [gzip.compress(SECRET.encode())],
    "zlib": [zlib.compress(SECRET.encode())],
    "base64 in gzip": [gzip.compress(base64.b64encode(SECRET.encode()))],
    "UTF-16 in gzip": [gzip.compress(SECRET.encode("utf-16"))],
    "compressed base64 (zlib)": ["session=." + base64.urlsafe_b64encode(zlib.compress(SECRET.encode() * 2)).decode()],
    "compressed base64 (gzip)": ["data:;base64," + base64.b64encode(gzip.compress(SECRET.encode())).decode()],
    "base64 in lines": [base64.encodebytes(b"x" * 50 + SECRET.encode()).decode()],
}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        pytest.param(form, text, id=f"{form or 'plain'}-{i}")
        for form, texts in FORMS.items()
        for i, text in enumerate(texts)
    ],
)
def test_a_canary_is_found_in_every_form_and_the_form_is_named(form, text):
    """Whose it is, what it is called, and how it was written."""
    assert (KEY, 7, "note", form) in {hit[:4] for hit in find(text)}


@given(keys, owners, names, st.binary(max_size=8), st.binary(max_size=8))
def test_any_canary_in_base64_is_found_at_any_alignment(key, owner, name, before, after):
    """Whatever stands around it before it is encoded."""
    text = base64.b64encode(before + mint(key, owner, name).encode() + after).decode()
    assert (key, owner, name, "base64") in {hit[:4] for hit in find(text)}


@given(keys, owners, names, plain_text, plain_text)
def test_any_canary_in_any_text_is_found_where_it_stands(key, owner, name, before, after):
    """The position is exact, so that it can be replaced."""
    secret = mint(key, owner, name)
    text = before + secret + after
    assert Hit(key, owner, name, "", len(before), len(before) + len(secret)) in find(text)


@given(keys, owners, names)
def test_escapers_leave_a_canary_alone(key, owner, name):
    """Lower-case letters and digits: nothing to escape, and nothing that base64 spells differently."""
    secret = mint(key, owner, name)
    assert quote(secret) == html.escape(secret) == json.dumps(secret)[1:-1] == secret
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + secret.encode()).decode().rstrip("=")
        assert not set("+/") & set(encoded)


def test_a_canary_that_was_cut_short_still_names_its_owner():
    """A title of sixteen characters is enough."""
    assert [hit[:3] for hit in find(SECRET[:16] + "…")] == [(KEY, 7, "")]
    assert find(SECRET[:15]) == []


def test_a_canary_with_a_wrong_letter_is_none():
    """Two check sums."""
    for at in range(len(canary.PREFIX), len(SECRET)):
        other = SECRET[:at] + ("a" if SECRET[at] != "a" else "b") + SECRET[at + 1 :]
        assert (KEY, 7, "note") not in {hit[:3] for hit in find(other)}


def test_several_canaries_are_all_found_in_order():
    """One pass, however many users there are."""
    secrets = [mint(KEY, owner, "note") for owner in range(500)]
    assert [hit.owner for hit in find(" ".join(secrets))] == list(range(500))
    assert [hit.owner for hit in find("".join(secrets))] == list(range(500))


def test_three_megabytes_of_noise_hold_no_canary():
    """Random text, hex, base64, digits and words."""
    rng = random.Random(7)
    for noise in (
        "".join(rng.choices(string.ascii_lowercase + string.digits, k=10**6)),
        rng.randbytes(3 * 10**5).hex(),
        base64.b64encode(rng.randbytes(6 * 10**5)).decode(),
        "".join(rng.choices(string.digits, k=10**6)),
        rng.randbytes(10**5),
    ):
        assert find(noise) == []


@given(st.one_of(st.text(), st.binary()))
def test_anything_can_be_searched(value):
    """No text and no bytes make the search fail."""
    text, hits = read(value)
    assert isinstance(text, str)
    assert hits == []


def test_letters_that_change_length_when_lowered_do_not_shift_positions():
    """The Turkish capital İ becomes two characters."""
    text = f"İ{SECRET.upper()}"
    [hit] = find(text)
    assert text[hit.start : hit.stop] == SECRET.upper()


@given(keys, st.integers(0, canary.NUMBER_OWNERS - 1), st.integers(0, 99))
def test_a_number_is_found_as_a_number_and_in_text(key, owner, code):
    """Fifteen digits, exact in a double."""
    number = mint_number(key, owner, code)
    assert len(str(number)) == 15
    assert int(float(number)) == number
    assert (number_key(key), owner, f"#{code}") in {hit[:3] for hit in find(json.dumps({"amount": number}))}


def test_a_longer_number_is_no_canary():
    """An account number may contain anything."""
    number = mint_number(KEY, 7, 1)
    assert find(f"1{number}") == find(f"{number}1") == []


@pytest.mark.parametrize(
    ("name", "short"), [("note", "note"), ("My Note!", "mynote"), ("é", "x"), ("", "x"), ("a" * 20, "a" * 12)]
)
def test_a_name_is_reduced_to_what_fits(name, short):
    """Twelve lower-case letters and digits."""
    assert slug(name) == short


@pytest.mark.parametrize(
    ("key", "owner", "name"),
    [("0", 1, "a"), (KEY, -1, "a"), (KEY, canary.OWNERS, "a"), (KEY, 1, "A"), (KEY, 1, "a" * 13)],
)
def test_a_canary_that_does_not_fit_is_refused(key, owner, name):
    """It could not be read again."""
    with pytest.raises(ValueError, match="no canary has"):
        mint(key, owner, name)


@pytest.mark.parametrize(("owner", "code"), [(-1, 0), (canary.OWNERS, 0), (0, 100), (0, -1)])
def test_a_number_that_does_not_fit_is_refused(owner, code):
    """As many users as a text has room for, a hundred names."""
    with pytest.raises(ValueError, match="no numeric canary has"):
        mint_number(KEY, owner, code)


def test_a_bomb_is_not_unpacked_beyond_16_megabytes():
    """What lies behind is not seen; the documentation says so."""
    bomb = gzip.compress(b"\0" * 40_000_000 + SECRET.encode())
    assert find(bomb) == []


@pytest.mark.parametrize("broken", [b"\x1f\x8b\x08garbage", b"x\x9cgarbage", "eJ" + "A" * 40, "H4sI" + "A" * 21])
def test_what_only_looks_compressed_is_read_as_it_is(broken):
    """Nothing fails on a broken stream."""
    assert find(broken) == []


def test_a_gzip_member_inside_a_multipart_body_is_found():
    """Bodies are often parts of bodies."""
    body = b"--b\r\n\r\n" + gzip.compress(SECRET.encode()) + b"\r\n--b--"
    assert (KEY, 7, "note") in {hit[:3] for hit in find(body)}


@pytest.mark.parametrize("form", [form for form, texts in FORMS.items() if isinstance(texts[0], str)])
def test_of_many_values_those_are_searched_in_which_there_may_be_one(form):
    """In whatever form it is written."""
    for text in FORMS[form]:
        assert 2 in canary.suspects(["hello", 1, text, None, 2.5, True, "H4sI"])
    assert 2 in canary.suspects(["a", "b", b"bytes"])
    assert 2 in canary.suspects(["hello", 1, mint_number(KEY, 7, 3)])
    assert 2 in canary.suspects(["hello", 1, float(mint_number(KEY, 7, 3))])


def test_of_values_without_any_none_is_searched():
    """All of them were, in one go."""
    values = ["hello", 1, None, 2.5, True, "", 10**400]
    assert [index for index in range(len(values)) if index in canary.suspects(values)] == []
