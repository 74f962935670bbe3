"""The metrics of this process as things that count: one attribute a declared metric, `labels(…)` for each series.

Next: store, where the numbers are.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from monitoring.exemplars import Exemplars
from monitoring.metrics import METRICS
from monitoring.store import Counter, Gauge, Histogram, Store

Child = TypeVar("Child", Counter, Gauge, Histogram, Exemplars)


class MetricFamily(Generic[Child]):
    """One metric. The same labels give the same child."""

    def __init__(self, count: int, make: Callable[[tuple[str, ...]], Child]) -> None:
        self._count = count
        self._make: Callable[[tuple[str, ...]], Child] = make
        self._children: dict[tuple[str, ...], Child] = {}

    def labels(self, *values: str) -> Child:
        """The series with these label values, in the declaration's order; begins at 0."""
        child = self._children.get(values)
        if child is None:
            assert len(values) == self._count, values
            child = self._children[values] = self._make(values)
        return child

    def forget(self, model: str, version: str) -> None:
        """Make a new series for that version when it is asked for again."""
        for values in [values for values in self._children if values[:2] == (model, version)]:
            del self._children[values]


class Instruments:
    """This process' metrics, kept in `folder`, or in a temporary one. Count from one thread only.

    request_exemplars: of request_duration_seconds, by its labels.
    """

    request_duration_seconds: MetricFamily[Histogram]
    stage_duration_seconds: MetricFamily[Histogram]
    requests_in_progress: MetricFamily[Gauge]
    rejected_total: MetricFamily[Counter]
    queue_tokens: MetricFamily[Gauge]
    batch_rows: MetricFamily[Histogram]
    batch_tokens: MetricFamily[Histogram]
    tokens_total: MetricFamily[Counter]
    predictions_total: MetricFamily[Counter]
    confidence: MetricFamily[Histogram]
    row_tokens: MetricFamily[Histogram]
    swap_total: MetricFamily[Counter]
    swap_duration_seconds: MetricFamily[Histogram]
    cold_requests_total: MetricFamily[Counter]
    loads_on_demand_total: MetricFamily[Counter]
    unloads_total: MetricFamily[Counter]
    engine_restarts_total: MetricFamily[Counter]
    time_to_first_token_seconds: MetricFamily[Histogram]
    time_per_output_token_seconds: MetricFamily[Histogram]
    prompt_tokens_total: MetricFamily[Counter]
    reused_prompt_tokens_total: MetricFamily[Counter]
    generated_tokens_total: MetricFamily[Counter]
    running_rows: MetricFamily[Gauge]
    waiting_rows: MetricFamily[Gauge]
    cache_used_tokens: MetricFamily[Gauge]
    cache_limit_tokens: MetricFamily[Gauge]
    preemptions_total: MetricFamily[Counter]
    engine_memory_bytes: MetricFamily[Gauge]
    rollout_agreement: MetricFamily[Histogram]
    rollout_shadow_total: MetricFamily[Counter]
    rollout_shadow_dropped_total: MetricFamily[Counter]

    def __init__(self, folder: Path | None = None) -> None:
        self.store = Store(folder)
        for metric in METRICS.values():
            if metric.kind != "snapshot":
                make = partial(getattr(self.store, metric.kind), metric)
                family: MetricFamily[Any] = MetricFamily(len(metric.labels), make)
                setattr(self, metric.name, family)
        requests = METRICS["request_duration_seconds"]
        self.request_exemplars: MetricFamily[Exemplars] = MetricFamily(
            len(requests.labels), partial(self.store.exemplars, requests)
        )

    def forget(self, model: str, version: str) -> None:
        """Let the series of an unloaded version leave what this process reports."""
        for metric in METRICS.values():
            if metric.kind != "snapshot" and "version" in metric.labels:
                getattr(self, metric.name).forget(model, version)
        self.request_exemplars.forget(model, version)
        self.store.forget(model, version)
