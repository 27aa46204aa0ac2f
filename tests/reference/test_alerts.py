"""Alerts see every operation; a summary judges p95, and never calls healthy what was not measured."""

import time
import weakref

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reference_impl.alerts import TARGETS_S, Alerts
from reference_impl.export import exposition
from reference_impl.metrics import Metrics


@pytest.fixture
def metrics():
    return Metrics(sample_rate=0.0)


def test_an_operation_beyond_one_and_a_half_of_its_target_alerts(metrics):
    """At 15 ms where the target is 10."""
    alerts = Alerts(metrics)
    for seconds in (0.001, 0.0149, 0.0151):
        metrics.record("factory.context_creation", seconds, {"kind": "x"})
    [alert] = alerts.latest
    assert (alert.name, alert.seconds, alert.target_s, alert.tags) == (
        "factory.context_creation",
        0.0151,
        0.010,
        {"kind": "x"},
    )


def test_every_slow_operation_is_seen_and_not_a_sample_of_them(metrics):
    """A thousand of a thousand."""
    alerts = Alerts(metrics, keep=2000)
    for _ in range(1000):
        metrics.record("api.request", 1.0)
    assert len(alerts.latest) == 1000


def test_alerts_are_bounded_and_the_latest_stay(metrics):
    """A bad night does not fill the memory."""
    alerts = Alerts(metrics, keep=3)
    for n in range(10):
        metrics.record("api.request", 1.0 + n)
    assert [alert.seconds for alert in alerts.latest] == [8.0, 9.0, 10.0]


def test_what_was_measured_before_is_watched_from_now_on(metrics):
    """The series is there already."""
    metrics.record("api.request", 1.0)
    alerts = Alerts(metrics)
    metrics.record("api.request", 2.0)
    assert [alert.seconds for alert in alerts.latest] == [2.0]


def test_the_callback_is_told_once_in_a_while_and_how_many_it_missed(metrics):
    """For each operation by itself."""
    told = []
    alerts = Alerts(metrics, callback=told.append, every_s=3600)
    for _ in range(5):
        metrics.record("api.request", 1.0)
    metrics.record("factory.agent_creation", 1.0)
    assert [(alert.name, alert.suppressed) for alert in told] == [("api.request", 0), ("factory.agent_creation", 0)]
    alerts._told.clear()  # an hour later
    metrics.record("api.request", 1.0)
    assert (told[-1].name, told[-1].suppressed) == ("api.request", 4)


def test_a_callback_that_raises_harms_no_request_and_is_not_hidden(metrics):
    """It is somebody else's code in the middle of a request."""

    def broken(alert):
        raise OSError("pager is down")

    alerts = Alerts(metrics, callback=broken, every_s=0)
    with metrics.timed_operation("api.request"):
        pass
    metrics.record("api.request", 1.0)
    assert (alerts.failures, str(alerts.failure)) == (1, "OSError: pager is down")
    assert len(alerts.latest) == 1


def test_a_callback_that_raises_keeps_no_request_alive(metrics):
    """Neither through the frames of its own exception, nor through the exception that the request was dealing with."""

    class Secret:
        pass

    def broken(alert):
        raise OSError("pager is down")

    def request():
        secret = Secret()
        try:
            raise LookupError(secret)
        except LookupError:
            metrics.record("api.request", 1.0)
        return weakref.ref(secret)

    alerts = Alerts(metrics, callback=broken)
    secret = request()
    assert alerts.failures == 1
    assert secret() is None


def test_a_failure_that_cannot_even_say_what_it_is_harms_no_request(metrics):
    """It is a text, made when it happened."""

    class Mute(Exception):
        def __str__(self):
            raise KeyError

    def broken(alert):
        raise Mute

    alerts = Alerts(metrics, callback=broken)
    metrics.record("api.request", 1.0)
    assert "Mute" in alerts.failure


def test_what_has_too_many_tags_is_watched_and_judged_all_the_same():
    """An id in a tag must not make the night quiet."""
    metrics = Metrics(sample_rate=0.0, most_series=10)
    alerts = Alerts(metrics)
    for n in range(10):
        metrics.record("job", 0.001, {"user": str(n)})
    for n in range(50):
        metrics.record("api.request", 1.0, {"user": str(n)})
    assert [alert.name for alert in alerts.latest] == ["api.request"] * 50
    [row] = [row for row in alerts.summary().rows if row.name == "api.request"]
    assert (row.count, row.kept) == (50, False)


def test_the_summary_judges_p95_and_not_the_mean(metrics):
    """A mean of 3.9 ms hides that one in ten takes 30."""
    alerts = Alerts(metrics)
    for n in range(100):
        metrics.record("factory.context_cleanup", 0.030 if n % 10 == 0 else 0.001)
    [row] = [row for row in alerts.summary().rows if row.name == "factory.context_cleanup"]
    assert row.p95_s == pytest.approx(0.030, rel=0.011)
    assert (row.count, row.kept) == (100, False)


def test_a_quick_night_does_not_hide_a_slow_morning():
    """It is how operations do now that is judged, and that Prometheus is shown as quantiles."""
    metrics = Metrics(window_s=300)
    alerts = Alerts(metrics)
    now_s = time.monotonic()

    def shown():
        families = text_string_to_metric_families(exposition(metrics).decode())
        [summary] = [family for family in families if family.name == "isolation_api_request_seconds"]
        values = {s.labels.get("quantile", s.name.rpartition("_")[2]): s.value for s in summary.samples}
        return values["0.95"], values["count"]

    for _ in range(10_000):
        metrics.record("api.request", 0.001)
    metrics.rotate(now_s + 301)
    metrics.rotate(now_s + 302)  # too early for another window
    for _ in range(100):
        metrics.record("api.request", 0.5)
    assert shown() == (pytest.approx(0.001, rel=0.01), 10_100)
    metrics.rotate(now_s + 602)
    assert shown() == (pytest.approx(0.5, rel=0.01), 10_100)
    [row] = [row for row in alerts.summary().rows if row.name == "api.request"]
    assert (row.count, row.kept) == (100, False)


def test_alerts_are_counted_for_prometheus(metrics):
    """By the operation; whoever is on call looks there first."""
    Alerts(metrics)
    for _ in range(3):
        metrics.record("api.request", 1.0)
    assert metrics.counters["alerts", (("operation", "api.request"),)] == 3


def test_too_few_are_not_judged(metrics):
    """A p95 of nineteen is their maximum, and a p99 of ninety-nine too."""
    alerts = Alerts(metrics)
    for _ in range(19):
        metrics.record("api.request", 0.001)
    [row] = [row for row in alerts.summary().rows if row.name == "api.request"]
    assert (row.p95_s, row.kept) == (None, None)
    metrics.record("api.request", 0.001)
    [row] = [row for row in alerts.summary().rows if row.name == "api.request"]
    assert row.kept
    assert row.p99_s is None


def test_health_is_the_share_that_keeps_its_target(metrics):
    """Of those that can be judged."""
    alerts = Alerts(metrics)
    assert alerts.summary().health is None
    for name, seconds in (
        ("api.request", 0.001),
        ("factory.agent_creation", 0.001),
        ("authenticate", 1.0),
        ("other", 9.0),
    ):
        for _ in range(20):
            metrics.record(name, seconds)
    assert alerts.summary().health == pytest.approx(200 / 3)


def test_the_worst_of_several_tags_speaks_for_the_operation(metrics):
    """A quick endpoint does not excuse a slow one."""
    alerts = Alerts(metrics)
    for _ in range(50):
        metrics.record("api.request", 0.001, {"endpoint": "/a"})
        metrics.record("api.request", 0.5, {"endpoint": "/b"})
    [row] = [row for row in alerts.summary().rows if row.name == "api.request"]
    assert (row.count, row.kept) == (100, False)


def test_every_operation_of_the_specification_has_a_target():
    """Nine of them."""
    assert len(TARGETS_S) == 9
    with pytest.raises(TypeError):
        TARGETS_S["api.request"] = 1


def test_a_factor_below_one_is_refused(metrics):
    """Every operation would alert."""
    with pytest.raises(ValueError, match=r"factor is at least 1, not 0\.5"):
        Alerts(metrics, factor=0.5)
