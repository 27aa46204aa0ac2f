"""How fast foreign secrets are looked for."""

import json
import random
import statistics
import string
import time

import pytest
from side_by_side import interleaved, timed

from pytest_isolation.users.canary import encode_key, find, mint

RNG = random.Random(1)
WORDS = ["".join(RNG.choices(string.ascii_lowercase, k=RNG.randint(2, 10))) for _ in range(5000)]
TEXTS = {
    "JSON": json.dumps(
        [{"id": RNG.randint(0, 10**9), "text": " ".join(RNG.choices(WORDS, k=20))} for _ in range(20_000)]
    ),
    "pretty JSON": json.dumps([{"id": i, "text": " ".join(RNG.choices(WORDS, k=9))} for i in range(20_000)], indent=1),
    "words": " ".join(RNG.choices(WORDS, k=10**6)),
    "bytes": json.dumps([" ".join(RNG.choices(WORDS, k=20)) for _ in range(20_000)]).encode(),
}


def speed(text):
    start = time.perf_counter()
    assert find(text) == []
    return len(text) / 1e6 / (time.perf_counter() - start)


@pytest.mark.parametrize("kind", TEXTS)
def test_search_in_text_without_canaries(benchmark, figure, kind):
    """Megabytes a second."""
    benchmark.pedantic(find, (TEXTS[kind],), rounds=7)
    figure(f"canary search, {kind}", statistics.median(speed(TEXTS[kind]) for _ in range(9)), "MB/s", least=50)


def sown(users):
    """The same text with ten thousand secrets in it, of so many users."""
    rng, texts = random.Random(2), [*TEXTS["JSON"].split(" ")]
    for n in range(10_000):
        texts[rng.randrange(len(texts))] = mint(encode_key(1), n % users, f"s{n % 7}")
    return " ".join(texts)


def test_the_number_of_users_does_not_matter(benchmark, figure):
    """Ten thousand secrets of one user, or one each of ten thousand: the same time."""

    def search(text):
        return lambda: timed(lambda: find(text))

    many, one = sown(10_000), sown(1)
    assert len({hit.owner for hit in find(many)}) > 9_000
    mine, theirs, ratio = interleaved(search(many), search(one), 9)
    figure(
        "canary search: secrets of 10,000 users / of one user",
        ratio,
        "×",
        most=1.1,
        details=f"{mine * 1e3:.0f} / {theirs * 1e3:.0f} ms",
    )
    benchmark.pedantic(find, (many,), rounds=3)
