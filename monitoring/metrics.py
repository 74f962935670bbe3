"""Every metric, declared once: name, kind, help, labels, buckets. From them come the instruments and the dashboard.

What processes count goes through files that prometheus_client shares between them (`PROMETHEUS_MULTIPROC_DIR`). What is
true of a version now (`model_info`, `model_state`) is computed at the scrape instead, because a gauge in those files
cannot be removed, and an unloaded version must leave. prometheus_client is imported only when instruments are made.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.samples import Sample

PREFIX = "headwaiter_"
CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"

VERSION = ("model", "version", "task")
SECONDS = (
    *(0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
TOKENS = tuple(float(2**power) for power in range(4, 18))
SHARES = tuple(step / 20 for step in range(1, 21))

Kind = Literal["counter", "gauge", "histogram", "snapshot"]
"""A snapshot is a gauge that is computed at the scrape."""


@dataclass(frozen=True)
class Metric:
    """One declaration. name: without the prefix, with its base unit. unit: as Grafana names it.

    buckets: upper bounds of a histogram, in the unit. mode: how a gauge's values of several processes become one; a
    `live` mode leaves out processes that ended.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    mode: Literal["", "livesum", "livemostrecent"] = ""

    @property
    def full_name(self) -> str:
        """As Prometheus stores it; a histogram's series add `_bucket`, `_sum` and `_count`."""
        return PREFIX + self.name


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "request_duration_seconds",
            "histogram",
            "s",
            "Time from a request's whole body to its answer.",
            (*VERSION, "protocol", "status"),
            SECONDS,
        ),
        Metric(
            "stage_duration_seconds",
            "histogram",
            "s",
            "Time of an answered request in each stage: encode, queue, forward, decode.",
            (*VERSION, "stage"),
            SECONDS,
        ),
        Metric(
            "requests_in_progress", "gauge", "short", "Requests that wait for their answer.", VERSION, mode="livesum"
        ),
        Metric("queue_tokens", "gauge", "short", "Tokens that wait in the engines' queues.", VERSION, mode="livesum"),
        Metric("batch_rows", "histogram", "short", "Rows of a forward pass.", VERSION, ROWS),
        Metric("batch_tokens", "histogram", "short", "Tokens of a forward pass, padding included.", VERSION, TOKENS),
        Metric("tokens_total", "counter", "short", "Tokens that went through forward passes.", (*VERSION, "kind")),
        Metric(
            "rejected_total",
            "counter",
            "short",
            "Requests that got an error instead of an answer.",
            (*VERSION, "reason"),
        ),
        Metric("predictions_total", "counter", "short", "Labels that were answered.", (*VERSION, "label")),
        Metric("confidence", "histogram", "percentunit", "Scores of the answered labels, 0 to 1.", VERSION, SHARES),
        Metric(
            "model_info",
            "snapshot",
            "short",
            "1 for each loaded version: the aliases that it serves, its head, dtype and device.",
            (*VERSION, "alias", "head", "dtype", "device"),
        ),
        Metric(
            "model_state",
            "snapshot",
            "short",
            "1 for the state of each version: loading, ready, failed or draining.",
            (*VERSION, "state"),
        ),
        Metric("swap_total", "counter", "short", "Changes of the live version, by outcome.", ("model", "outcome")),
        Metric(
            "swap_duration_seconds",
            "histogram",
            "s",
            "Time from seeing an alias move to serving the new version.",
            ("model",),
            LOAD_SECONDS,
        ),
        Metric("engine_restarts_total", "counter", "short", "Engines started again after they ended.", VERSION),
    )
}


class Instruments:
    """The metrics that processes count, made in `registry` (default: prometheus_client's own), one attribute each.

    Make it once a process and registry, after PROMETHEUS_MULTIPROC_DIR is set.
    """

    request_duration_seconds: "Histogram"
    stage_duration_seconds: "Histogram"
    requests_in_progress: "Gauge"
    queue_tokens: "Gauge"
    batch_rows: "Histogram"
    batch_tokens: "Histogram"
    tokens_total: "Counter"
    rejected_total: "Counter"
    predictions_total: "Counter"
    confidence: "Histogram"
    swap_total: "Counter"
    swap_duration_seconds: "Histogram"
    engine_restarts_total: "Counter"

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        import prometheus_client

        into = prometheus_client.REGISTRY if registry is None else registry
        for metric in METRICS.values():
            found: Any
            if metric.kind == "histogram":
                found = prometheus_client.Histogram(
                    metric.full_name, metric.help, metric.labels, registry=into, buckets=metric.buckets
                )
            elif metric.kind == "counter":
                found = prometheus_client.Counter(metric.full_name, metric.help, metric.labels, registry=into)
            elif metric.kind == "gauge":
                found = prometheus_client.Gauge(
                    metric.full_name, metric.help, metric.labels, registry=into, multiprocess_mode=metric.mode or "all"
                )
            else:
                continue
            setattr(self, metric.name, found)


@dataclass(frozen=True)
class VersionStatus:
    """A version at the time of a scrape. aliases: those that it serves. dtype, device: empty while it loads."""

    model: str
    version: str
    task: str
    state: str
    aliases: tuple[str, ...]
    head: str
    dtype: str
    device: str


class StatusCollector:
    """prometheus_client's collector of the snapshot metrics."""

    def __init__(self, statuses: Iterable[VersionStatus]) -> None:
        self._statuses = tuple(statuses)

    def collect(self) -> "Iterator[GaugeMetricFamily]":
        """`model_info`, one series an alias (an empty one where there is none), and `model_state`."""
        from prometheus_client.core import GaugeMetricFamily

        info, state = (METRICS[name] for name in ("model_info", "model_state"))
        infos = GaugeMetricFamily(info.full_name, info.help, labels=info.labels)
        states = GaugeMetricFamily(state.full_name, state.help, labels=state.labels)
        for status in self._statuses:
            version = (status.model, status.version, status.task)
            for alias in status.aliases or ("",):
                infos.add_metric((*version, alias, status.head, status.dtype, status.device), 1.0)
            states.add_metric((*version, status.state), 1.0)
        yield infos
        yield states


class MergedCollector:
    """What all processes counted, merged from their files in `PROMETHEUS_MULTIPROC_DIR`, in a fixed order.

    prometheus_client 0.26 leaves families in the order of the folder's files, and puts a histogram's sum first.
    """

    def collect(self) -> "Iterator[Family]":
        """Families by name; in a histogram each series' buckets in rising order, then its count, then its sum."""
        from prometheus_client.multiprocess import MultiProcessCollector

        merged = MultiProcessCollector(None)  # type: ignore[no-untyped-call]  # untyped in prometheus_client 0.26
        families: Iterable[Family] = merged.collect()  # type: ignore[no-untyped-call]  # as above
        for family in sorted(families, key=lambda family: family.name):
            if family.type == "histogram":
                family.samples.sort(key=_histogram_order)
            yield family


def _histogram_order(sample: "Sample") -> tuple[tuple[tuple[str, str], ...], int, float]:
    series = tuple(sorted(label for label in sample.labels.items() if label[0] != "le"))
    part = {"bucket": 0, "count": 1}.get(sample.name.rpartition("_")[2], 2)
    return series, part, float(sample.labels.get("le", 0))


def render(statuses: Iterable[VersionStatus]) -> bytes:
    """The exposition text of `/metrics`: all processes' counts, and the snapshot metrics. Reads files: some ms."""
    from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

    counted = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        counted = CollectorRegistry()
        counted.register(MergedCollector())
    now = CollectorRegistry()
    now.register(StatusCollector(statuses))
    return generate_latest(counted) + generate_latest(now)
