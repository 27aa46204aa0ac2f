"""What is said of a finding that did not show again when it was played again."""

import itertools
from types import SimpleNamespace


class Shop:
    """Its answers are wrong in one run of all, whatever the order."""

    last = ""

    def __init__(self, number, wrong):
        self.is_wrong = number == wrong


async def note(shop, user):
    if not (shop.is_wrong and Shop.last):
        Shop.last = user.secret("note")
    user.observe(Shop.last)


def test_a_leak_that_does_not_show_again_is_proven_all_the_same(explore):
    """Only its order is not."""
    numbers = itertools.count()
    findings, done = explore(SimpleNamespace(open=lambda: Shop(next(numbers), 20), scenario=note), users=2)
    assert {finding.kind for finding in findings} == {"leak"}
    assert (
        "the finding is proven; only its order cannot be relied on to come again: it showed in 0 of 3 replays"
        in done.notes
    )
