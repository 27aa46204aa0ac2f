"""How long it takes to see that nothing is kept, and what keeps something."""

import gc
from types import ModuleType

import objgraph
import pytest
from side_by_side import interleaved, timed

from pytest_isolation.users.canary import PREFIX
from pytest_isolation.users.cast import Cast
from pytest_isolation.users.holding import chains
from pytest_isolation.users.links import tell
from pytest_isolation.users.remains import remains

SIZES = (82_000, 680_000)
_CHUNK = 512


class Row:
    """A few of what programs have many of."""

    def __init__(self, number):
        self.number = number
        self.name = f"the name of row {number}"
        self.parts = [number, self.name]


class Shop(ModuleType):
    """A module of its own, so that there is a root."""


@pytest.fixture(params=SIZES)
def objects(request):
    """So many objects that the collector knows, at least; how many there are."""
    gc.collect()
    missing = max(0, request.param - len(gc.get_objects()))
    rows = [Row(number) for number in range(missing // 2)]
    yield len(gc.get_objects())
    del rows[:]


def plain_search(needle):
    """One collection, then one pass over all that objects refer to: what anybody would write first."""
    gc.collect()
    found, seen = [], set()
    objects = gc.get_objects()
    for start in range(0, len(objects), _CHUNK):
        for part in gc.get_referents(*objects[start : start + _CHUNK]):
            kind = type(part)
            if kind is str and len(part) >= len(needle) and id(part) not in seen:
                if needle in part:
                    found.append(part)
                seen.add(id(part))
            elif kind is bytes and needle.encode() in part:
                found.append(part)
            elif kind in (dict, tuple) and not gc.is_tracked(part) and id(part) not in seen:
                seen.add(id(part))
                found += [part] if needle in repr(part) else []
    return found


def test_looking_where_there_is_nothing(benchmark, figure, objects):
    """The whole look after a crowd: one collection, and the search for all secrets of all its users."""
    cast = Cast(1, "benchmark")
    assert not remains(cast)
    mine, theirs, ratio = interleaved(
        lambda: timed(lambda: remains(cast)), lambda: timed(lambda: plain_search(PREFIX + cast.key)), 9
    )
    figure(
        f"look through {objects // 1000:,} k objects / collect and search",
        ratio,
        "×",
        most=1.2,
        details=f"{mine * 1e3:.0f} / {theirs * 1e3:.0f} ms",
    )
    benchmark.pedantic(remains, (cast,), rounds=3)


def test_following_what_is_tracked_and_gone(benchmark, figure, objects):
    """Without a find nothing is collected, whatever the size of the heap."""
    [user] = (cast := Cast(1, "benchmark")).users(1)

    def follow():
        for _ in range(100):
            user.track(Row(1))
        assert not cast.tracked.are_alive
        cast.tracked.end()

    mine, theirs, ratio = interleaved(lambda: timed(follow), lambda: timed(gc.collect), 9)
    details = f"{mine * 1e3:.2f} / {theirs * 1e3:.0f} ms"
    figure(f"100 tracked objects that went / gc.collect, {objects // 1000:,} k", ratio, "×", most=1, details=details)
    benchmark.pedantic(follow, rounds=9)


def test_saying_what_keeps_an_object(benchmark, figure, objects, monkeypatch):
    """The whole chain, six links from the module; objgraph is given twenty to find it."""
    message, shop = Row(-1), Shop("shop")
    monkeypatch.setitem(__import__("sys").modules, "shop", shop)
    shop.__loader__ = None
    shop.app = {"store": [{"cache": {"last": [message]}}]}

    def mine():
        return tell(chains([message])[id(message)])

    def theirs():
        return objgraph.find_backref_chain(message, objgraph.is_proper_module, max_depth=20)

    assert mine() == "shop.app → dict['store'] → list[0] → dict['cache'] → dict['last'] → list[0]"
    assert theirs()[0] is shop
    ours, peers, ratio = interleaved(lambda: timed(mine), lambda: timed(theirs), 9)
    details = f"{ours * 1e3:.0f} / {peers * 1e3:.0f} ms"
    figure(f"what keeps an object of {objects // 1000:,} k / objgraph", ratio, "×", most=1, details=details)
    benchmark.pedantic(mine, rounds=3)
