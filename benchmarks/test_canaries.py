"""How fast foreign secrets are looked for."""

import json
import random
import statistics
import string
import time

import pytest

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


def test_the_number_of_users_does_not_matter(benchmark, figure):
    """Ten thousand users have minted, or none: the same text, the same time."""
    text = TEXTS["JSON"]
    before = statistics.median(speed(text) for _ in range(9))
    kept = [mint(encode_key(1), owner, f"s{n}") for owner in range(10_000) for n in range(3)]
    after = statistics.median(speed(text) for _ in range(9))
    benchmark.pedantic(find, (text,), rounds=5)
    figure(
        "canary search: nobody's secrets / 30,000 secrets",
        before / after,
        "×",
        most=1.1,
        details=f"{len(kept):,} minted",
    )
