"""What Prometheus reads is what was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from reference_impl.export import exposition
from reference_impl.metrics import Metrics


def scraped(metrics, gauges=None):
    """Samples by name and labels, as Prometheus' own parser reads them."""
    text = exposition(metrics, gauges).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


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
