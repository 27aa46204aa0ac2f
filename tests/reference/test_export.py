"""What Prometheus reads is what was measured."""

import itertools
import sys
import threading
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from reference_impl.export import exposition
from reference_impl.metrics import Metrics


def scraped(metrics, gauges=None):
    """Samples by name and labels, as Prometheus' own parser reads them."""
    text = exposition(metrics, gauges).decode()
    check(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


ENDINGS = {
    "summary": ("", "_count", "_sum"),
    "histogram": ("_bucket", "_count", "_sum"),
    "counter": ("",),
    "gauge": ("",),
}


def check(text):
    """What `promtool check metrics` insists on, and Prometheus' own parser in Python.

    Every family has one type and appears once, every sample belongs to the family above it and appears once, and no
    sample of one family has the name of another.
    """
    types, samples = {}, Counter()
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# TYPE "):
            family, kind = line.split()[2:]
            assert family not in types, f"{family} appears twice"
            types[family] = kind
        elif line and not line.startswith("#"):
            samples[line.rpartition(" ")[0]] += 1
            name = line.partition("{")[0].partition(" ")[0]
            assert name in {family + ending for ending in ENDINGS[kind]}, f"{name} is not of {family}"
    assert not [sample for sample, many in samples.items() if many > 1]
    names = [family + ending for family, kind in types.items() for ending in {"", *ENDINGS[kind]}]
    assert len(set(names)) == len(names)
    parsed = [(family.name, family.type) for family in text_string_to_metric_families(text)]
    assert sorted(parsed) == sorted(
        (family.removesuffix("_total") if kind == "counter" else family, kind) for family, kind in types.items()
    )
    assert len({name for name, _ in parsed}) == len(parsed)


@pytest.fixture
def metrics():
    metrics = Metrics()
    for milliseconds in range(1, 101):
        metrics.record("factory.context_creation", milliseconds / 1000)
    return metrics


def test_quantiles_count_and_sum_are_there(metrics):
    """Under the name that the specification gives them."""
    samples, name = scraped(metrics), "isolation_factory_context_creation_seconds"
    assert samples[name, frozenset({("quantile", "0.95")})] == pytest.approx(0.095, rel=0.011)
    assert samples[f"{name}_count", frozenset()] == 100
    assert samples[f"{name}_sum", frozenset()] == pytest.approx(5.05)


def test_buckets_end_where_budgets_do(metrics):
    """Ten milliseconds are ten milliseconds, not somewhere near."""
    samples, name = scraped(metrics), "isolation_factory_context_creation_duration_seconds_bucket"
    counts = {le: samples[name, frozenset({("le", le)})] for le in ("0.001", "0.01", "0.02", "0.05", "+Inf")}
    assert counts == {"0.001": 1, "0.01": 10, "0.02": 20, "0.05": 50, "+Inf": 100}


def test_every_family_has_its_help_and_its_type(metrics):
    """And the text ends with a line break."""
    metrics.count("events.sent", 3)
    text = exposition(metrics, {"pool.size": 20}).decode()
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert families == {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    assert {
        "isolation_factory_context_creation_seconds",
        "isolation_events_sent_total",
        "isolation_pool_size",
    } <= families
    assert text.endswith("\n")


def test_nothing_that_counts_ever_falls():
    """Between two scrapes, whatever happens."""
    metrics = Metrics(details=5)
    before = {}
    for turn in range(5):
        for n in range(200):
            metrics.record("job", n / 1e4, error=KeyError if n % 7 == 0 else None)
            metrics.count("seen")
        now = scraped(metrics)
        counting = {
            key: value for key, value in now.items() if key[0].endswith(("_total", "_count", "_sum", "_bucket"))
        }
        assert all(counting[key] >= value for key, value in before.items())
        assert counting["isolation_seen_total", frozenset()] == 200 * (turn + 1)
        before = counting


def test_errors_and_cancellations_are_counted():
    """All of them, not a sample."""
    metrics = Metrics(sample_rate=0)
    for _ in range(10):
        metrics.record("job", 0.1, error=KeyError)
    samples = scraped(metrics)
    assert samples["isolation_job_errors_total", frozenset()] == 10
    assert samples["isolation_job_cancelled_total", frozenset()] == 0


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_value_of_a_tag_survives(value):
    """Quotes, backslashes, line breaks."""
    metrics = Metrics()
    metrics.record("job", 0.1, {"endpoint": value})
    samples = scraped(metrics)
    assert samples["isolation_job_seconds_count", frozenset({("endpoint", value)})] == 1


def test_names_become_valid_and_two_stay_two():
    """Neither is lost."""
    metrics = Metrics()
    metrics.count("a.b", 1)
    metrics.count("a-b", 2)
    metrics.count("größe", 3)
    values = sorted(value for (name, _), value in scraped(metrics).items() if name.startswith("isolation_a_b"))
    assert values == [1, 2]
    assert 3 in scraped(metrics).values()


PARTS = ("x", "a", "b", "seconds", "duration", "errors", "cancelled", "total", "count", "sum", "bucket")
NAMES = st.builds(str.join, st.sampled_from([".", "_"]), st.lists(st.sampled_from(PARTS), min_size=1, max_size=3))


@given(st.lists(st.tuples(st.sampled_from(["operation", "counter", "gauge"]), NAMES), max_size=8), st.sets(NAMES))
@example([("counter", "total.total"), ("counter", "total")], {"total"})
def test_whatever_the_names_no_family_appears_twice(things, given_gauges):
    """Whoever chose them."""
    metrics = Metrics()
    for kind, name in things:
        if kind == "operation":
            metrics.record(name, 0.1)
        elif kind == "counter":
            metrics.count(name)
        else:
            metrics.gauge(name, 1)
    check(exposition(metrics, dict.fromkeys(given_gauges, 1.0)).decode())


def named(metrics, help_begins):
    """The name of the family that is explained so."""
    lines = exposition(metrics).decode().splitlines()
    [line] = [line for line in lines if line.startswith("# HELP") and line.split(maxsplit=3)[3].startswith(help_begins)]
    return line.split()[2]


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (("record", "x", 0.1), ("record", "x.duration", 0.1), "isolation_x_duration_seconds"),
        (("record", "x", 0.1), ("count", "x.errors", 5), "isolation_x_errors_total"),
        (("record", "x", 0.1), ("gauge", "x.errors", 5), "isolation_x_errors_total"),
        (("record", "x", 0.1), ("gauge", "x.seconds", 5), "isolation_x_seconds"),
        (("record", "x", 0.1), ("gauge", "x.seconds.count", 5), "isolation_x_seconds"),
        (("count", "x", 1), ("gauge", "x", 5), "isolation_x_total"),
        (("count", "x", 1), ("count", "x.total", 5), "isolation_x_total"),
        (("record", "a.b", 0.1), ("record", "a_b", 0.1), "isolation_a_b_seconds"),
    ],
)
def test_of_two_that_want_one_name_the_first_keeps_it(first, second, name):
    """In every scrape, so that nothing that counts falls when the other one comes."""
    metrics = Metrics()
    for way, *what in (first, second):
        getattr(metrics, way)(*what)
        check(exposition(metrics).decode())
        assert f"# TYPE {name} " in exposition(metrics).decode()
    assert any(value == second[2] for value in scraped(metrics).values())


def test_a_counter_does_not_change_its_name_when_an_operation_wants_it():
    """Rates would begin anew."""
    metrics = Metrics()
    metrics.count("x.errors", 5)
    before = named(metrics, "How often: x.errors.")
    metrics.record("x", 0.1)
    assert named(metrics, "How often: x.errors.") == before


def test_a_counter_that_says_total_itself_has_it_once():
    """And is a counter."""
    metrics = Metrics()
    metrics.count("events.total", 3)
    assert scraped(metrics) == {
        ("isolation_events_total", frozenset()): 3,
        ("isolation_metrics_overflowed_total", frozenset()): 0,
    }


def test_two_tags_that_want_one_label_stay_two():
    """Or one of the two series would be lost."""
    metrics = Metrics()
    for n, key in enumerate(("a.b", "a_b", "le", "tag_le"), start=1):
        metrics.count("seen", n, {key: "1"})
    assert sorted(value for (name, _), value in scraped(metrics).items() if "seen" in name) == [1, 2, 3, 4]


LONE = "a\ud800b"


def test_half_a_character_does_not_kill_the_scrape():
    """It comes from a broken client; its escape is shown in its place."""
    metrics = Metrics()
    metrics.record("job", 0.1, {"endpoint": LONE})
    metrics.record(f"job.{LONE}", 0.1, {LONE: "1"})
    metrics.count(f"seen.{LONE}", 1, {"endpoint": LONE})
    metrics.gauge(f"level.{LONE}", 1, {"endpoint": LONE})
    samples = scraped(metrics, {LONE: 1.0})
    assert samples["isolation_job_seconds_count", frozenset({("endpoint", r"a\ud800b")})] == 1


def test_what_overflowed_is_shown():
    """Beside the operation that it belongs to, and as a figure."""
    metrics = Metrics(most_series=2)
    for n in range(5):
        metrics.record("job", 0.1, {"user": str(n)})
    samples = scraped(metrics)
    assert samples["isolation_job_seconds_count", frozenset({("overflow", "true")})] == 3
    assert samples["isolation_metrics_overflowed_total", frozenset()] == 3


@pytest.fixture
def measuring():
    """Metrics that another thread fills, as fast as it can and with ever new names."""
    metrics, ended = Metrics(sample_rate=1.0, most_series=100_000), threading.Event()

    def write():
        for n in itertools.count():
            metrics.count("seen", 1, {"n": str(n)})
            metrics.gauge("level", n, {"n": str(n)})
            for _ in range(20):
                metrics.record("job", 0.01, error=KeyError)
            if ended.is_set():
                break

    before, writer = sys.getswitchinterval(), threading.Thread(target=write)
    sys.setswitchinterval(1e-6)
    writer.start()
    yield metrics
    ended.set()
    writer.join()
    sys.setswitchinterval(before)


def test_a_scrape_in_a_thread_agrees_with_itself(measuring):
    """Whatever is measured meanwhile: no bucket holds more than all, and nothing changes while it is read."""
    for _ in range(6):
        lines = [line for line in exposition(measuring).decode().splitlines() if line.startswith("isolation_job")]
        samples = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
        count = samples.get("isolation_job_seconds_count", 0)
        buckets = [value for name, value in samples.items() if "_bucket" in name]
        assert max(buckets, default=0) == count == samples.get("isolation_job_duration_seconds_count", 0)
        assert samples.get("isolation_job_errors_total", 0) <= count


def test_tags_that_prometheus_keeps_for_itself_are_renamed():
    """`le` and `quantile` are its own."""
    metrics = Metrics()
    metrics.record("job", 0.1, {"le": "x", "__name__": "y", "1st": "z"})
    labels = next(labels for (name, labels) in scraped(metrics) if name == "isolation_job_seconds_count")
    assert labels == {("tag_le", "x"), ("tag___name__", "y"), ("tag_1st", "z")}


def test_gauges_may_be_given_or_noted():
    """The figures of pools, and what the application says."""
    metrics = Metrics()
    metrics.gauge("sockets.open", 7, {"kind": "ws"})
    samples = scraped(metrics, {"emitters.in_use": 3})
    assert samples["isolation_emitters_in_use", frozenset()] == 3
    assert samples["isolation_sockets_open", frozenset({("kind", "ws")})] == 7


def test_nothing_measured_is_an_empty_text():
    """No family without a sample."""
    assert exposition(Metrics()) == b""


def test_a_quantile_of_too_few_is_not_told():
    """A p95 of nineteen is their maximum."""
    metrics = Metrics()
    for _ in range(19):
        metrics.record("job", 0.1)
    quantiles = {dict(labels).get("quantile") for (name, labels) in scraped(metrics) if name == "isolation_job_seconds"}
    assert quantiles == {"0.5", "0.9"}
