"""What is counted, sent along and written during a user's work bears no secret of another."""

import asyncio
import builtins
import io
import logging
import os
import textwrap
from pathlib import Path

import cachetools
import opentelemetry.baggage
import pytest
from aiocache import SimpleMemoryCache
from diskcache import Cache
from opentelemetry import context
from opentelemetry.baggage import set_baggage
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Counter, Histogram, Info

from pytest_isolation.latency.otel import listen_to, listening
from pytest_isolation.latency.spans import Ledger
from pytest_isolation.oracles.logs import overheard_canaries
from pytest_isolation.phases.recording import recording
from pytest_isolation.phases.writing import with_files
from pytest_isolation.users.at_work import AT_WORK
from pytest_isolation.users.story import Story

NOWHERE = CollectorRegistry()
orders = Counter("orders", "of customers", registry=NOWHERE)
waits = Histogram("waits", "of customers", registry=NOWHERE)
about = Info("about", "a customer", registry=NOWHERE)
meter = MeterProvider(shutdown_on_exit=False).get_meter("shop")
counted, timed = meter.create_counter("counted"), meter.create_histogram("timed")


def redis_set(key, value, *_):
    from redis import Redis

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Redis, "_execute_command", lambda *_args, **_options: None)
        client = Redis()
        client.set(key, value)
        client.mset({"a": 1, key: value})
        client.hset("notes", key, value)
        client.execute_command("SETEX", key, 60, value)


def redis_pipeline(key, value, *_):
    from redis.asyncio import Redis

    Redis().pipeline().set(f"note:{key}".encode(), value)


def write(key, value, folder):
    (folder / f"{key}.txt").write_text(value)


def write_beside(key, value, folder):
    (folder / "new.tmp").write_text(value)
    (folder / "new.tmp").replace(folder / f"{key}.txt")


def write_by_descriptor(key, value, folder):
    descriptor = os.open(folder / "export.csv", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, value.encode())
    os.close(descriptor)


def speak_without_propagating(key, value, *_):
    log = logging.getLogger("shop.apart")
    log.propagate = False
    log.warning("saved %s", value)


# Each takes the id of whoever is at work, and the secret that it lets out.
WAYS = {
    "an exemplar of a counter": (
        lambda _, note, __: orders.inc(exemplar={"note": note}),
        "metric orders, at $.exemplar.note",
    ),
    "an exemplar of a histogram": (
        lambda _, note, __: waits.observe(1, {"note": note}),
        "metric waits, at $.exemplar.note",
    ),
    "an information": (lambda _, note, __: about.info({"note": note}), "metric about, at $[0].note"),
    "an attribute of a counter": (lambda _, note, __: counted.add(1, {"note": note}), "metric counted, at $.note"),
    "an attribute of a histogram": (
        lambda _, note, __: timed.record(1, attributes={"note": note}),
        "metric timed, at $.note",
    ),
    "baggage": (lambda _, note, __: opentelemetry.baggage.set_baggage("note", note), "baggage, at $.note"),
    "baggage by a name of one's own": (lambda _, note, __: set_baggage("note", note), "baggage, at $.note"),
    "an entry of redis": (redis_set, "cache redis SET, at $.<user>"),
    "an entry of redis in a pipeline": (redis_pipeline, "cache redis SET, at $['note:<user>']"),
    "an entry of cachetools": (
        lambda key, note, _: cachetools.TTLCache(9, 60).update({key: note}),
        "cache cachetools, at $.<user>",
    ),
    "an entry of diskcache": (
        lambda key, note, folder: Cache(str(folder)).set(key, note),
        "cache diskcache, at $.<user>",
    ),
    "an entry of aiocache": (
        lambda key, note, _: asyncio.run(SimpleMemoryCache().set(key, {"note": note})),
        "cache aiocache, at $.<user>.note",
    ),
    "a file": (write, "file, at $['*/<user>.txt']"),
    "a file that is put in its place": (write_beside, "file, at $['*/<user>.txt']"),
    "a file that the system opens": (write_by_descriptor, "file, at $['*/export.csv']"),
    "a logger that does not propagate": (speak_without_propagating, "log shop.apart, at $.message"),
}


def play(stage, *turns):
    """Let users do something, one after another, in one scene; hands back the findings."""
    with recording():
        for user, do in turns:
            AT_WORK.set(user)
            do()
            AT_WORK.set(None)
        runs = {user: stage.run(user) for user, _ in turns}
        runs = [with_files(user, run) for user, run in runs.items()]
    return [*overheard_canaries(stage.evidence(*runs), Story(()))]


@pytest.mark.parametrize("way", WAYS)
def test_a_foreign_secret_in_what_is_written_is_a_leak(stage, tmp_path, way):
    """It names the channel, and where in it; whose name a key or a file bears is said, too."""
    do, channel = WAYS[way]
    mine, other, _ = stage.users
    [finding] = play(stage, (mine, lambda: do(mine.id, other.secret("note"), tmp_path)))
    assert finding.summary.startswith("the work of user-00 ")
    assert finding.summary.endswith(" the secret 'note' of user-01")
    assert io_match(finding.channel.partition(", and at")[0], channel)


def io_match(text, pattern):
    before, star, after = pattern.partition("*")
    return text.startswith(before) and text.endswith(after) if star else text == pattern


@pytest.mark.parametrize("way", WAYS)
def test_ones_own_secret_is_none(stage, tmp_path, way):
    """Each under its own name."""
    do, _ = WAYS[way]
    turns = []
    for user in stage.users:
        folder = tmp_path / user.id
        folder.mkdir()
        turns.append((user, lambda user=user, folder=folder: do(user.id, user.secret("note"), folder)))
    assert play(stage, *turns) == []


def test_an_entry_of_nobody_may_hold_what_is_everybodys(stage):
    """Who is online."""
    mine, other, _ = stage.users
    cache = cachetools.LRUCache(9)
    assert play(stage, (mine, lambda: cache.update({"online": [mine.id, other.id]}))) == []


def test_a_file_that_several_write_is_nobodys(stage, tmp_path):
    """A log, or a database that is written as a whole."""
    log, table = tmp_path / "audit.log", tmp_path / "table.json"

    def work(user):
        with log.open("a") as file:
            file.write(user.id)
        table.write_text((table.read_text() if table.exists() else "") + user.id)

    assert play(stage, *[(user, lambda user=user: work(user)) for user in stage.users]) == []
    [alone] = stage.cast.users(1)
    assert play(stage, (alone, lambda: work(alone))) == []  # and it stays so in the next scene


def test_a_file_that_was_there_before_is_nobodys(stage, tmp_path):
    """Whose bytes are in it cannot be told; unless it bears the name of a user, and is written anew."""
    mine, other, _ = stage.users
    table, own = tmp_path / "table.json", tmp_path / f"{mine.id}.json"
    table.write_text(other.id)
    own.write_text("")
    assert play(stage, (mine, lambda: table.write_text(f"{other.id} {mine.id}"))) == []
    assert len(play(stage, (mine, lambda: own.write_text(other.id)))) == 1


def test_what_is_gone_or_no_file_is_not_looked_at(stage, tmp_path):
    """A pipe would never end."""
    mine, other, _ = stage.users

    def work():
        gone = tmp_path / "gone"
        gone.write_text(other.id)
        gone.unlink()
        replaced = tmp_path / "replaced"
        replaced.write_text(other.id)
        replaced.unlink()
        os.mkfifo(replaced)
        Path(os.devnull).write_text(other.id)

    assert play(stage, (mine, work)) == []


def test_what_fails_when_it_is_opened_fails_as_it_would(stage, tmp_path):
    """Who listens is silent."""
    for wrong, error in ((tmp_path / "no" / "where", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error):
            play(stage, (stage.users[0], lambda wrong=wrong: wrong.write_text("")))
    AT_WORK.set(None)


def test_after_the_scene_no_function_is_patched():
    """Those of libraries are their own again."""
    from redis import Redis

    def patched():
        return [
            Counter.inc,
            Redis.execute_command,
            cachetools.TTLCache.__setitem__,
            opentelemetry.baggage.set_value,
            logging.Logger.callHandlers,
            builtins.open,
            io.open,
        ]

    before = patched()
    with recording():
        assert patched() != before
    assert patched() == before


SUITE = """
    import asyncio, contextvars, pathlib, pytest
    import cachetools
    cache = cachetools.LRUCache(1000)
    CURRENT
    async def handle(user, folder):
        current.set(user.secret("note"))
        await asyncio.sleep(0)
        SAY

    @pytest.mark.asyncio
    @pytest.mark.isolation(users=6, cancel=False)
    async def test_it(user, tmp_path):
        await handle(user, tmp_path)
        user.observe(user.id)
"""
FAULT = """
    class Current:
        def set(self, value): self.value = value
        def get(self): return self.value
    current = Current()
"""
TWIN = "    current = contextvars.ContextVar('current')\n"
SAYING = {
    "a file": ("(folder / f'{user.id}.txt').write_text(current.get())", "wrote into a file"),
    "a cache": ("cache[user.id] = current.get()", "put into a cache"),
}


def source(current, say):
    return textwrap.dedent(SUITE).replace("CURRENT", textwrap.dedent(current)).replace("SAY", say)


@pytest.mark.parametrize("way", SAYING)
def test_a_crowd_is_listened_to(suite, way):
    """Read when all have ended."""
    say, did = SAYING[way]
    result = suite(source(FAULT, say))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"LEAK  the work of user-00 {did} the secret 'note' of user-05"])


@pytest.mark.parametrize("way", SAYING)
def test_where_each_writes_its_own_nothing_is_found(suite, way, twin):
    """The correct twins."""
    twin.is_silent(suite(source(TWIN, SAYING[way][0])))


def test_baggage_beside_a_span_is_heard_with_it():
    """Whoever set it."""
    provider, said = TracerProvider(shutdown_on_exit=False), []
    listen_to(provider)
    token = context.attach(set_baggage("note", "mine"))
    with listening(Ledger(()), said.append), provider.get_tracer("shop").start_as_current_span("pay"):
        pass
    context.detach(token)
    assert said == [{"name": "pay", "attributes": {}, "events": [], "baggage": {"note": "mine"}}]
