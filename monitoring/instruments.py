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


class Family(Generic[Child]):
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

    request_duration_seconds: Family[Histogram]
    stage_duration_seconds: Family[Histogram]
    requests_in_progress: Family[Gauge]
    rejected_total: Family[Counter]
    queue_tokens: Family[Gauge]
    batch_rows: Family[Histogram]
    batch_tokens: Family[Histogram]
    tokens_total: Family[Counter]
    predictions_total: Family[Counter]
    confidence: Family[Histogram]
    row_tokens: Family[Histogram]
    swap_total: Family[Counter]
    swap_duration_seconds: Family[Histogram]
    cold_requests_total: Family[Counter]
    loads_on_demand_total: Family[Counter]
    unloads_total: Family[Counter]
    engine_restarts_total: Family[Counter]
    time_to_first_token_seconds: Family[Histogram]
    time_per_output_token_seconds: Family[Histogram]
    prompt_tokens_total: Family[Counter]
    reused_prompt_tokens_total: Family[Counter]
    generated_tokens_total: Family[Counter]
    running_rows: Family[Gauge]
    waiting_rows: Family[Gauge]
    cache_used_tokens: Family[Gauge]
    cache_limit_tokens: Family[Gauge]
    preemptions_total: Family[Counter]
    engine_memory_bytes: Family[Gauge]
    rollout_agreement: Family[Histogram]
    rollout_shadow_total: Family[Counter]
    rollout_shadow_dropped_total: Family[Counter]

    def __init__(self, folder: Path | None = None) -> None:
        self.store = Store(folder)
        for metric in METRICS.values():
            if metric.kind != "snapshot":
                make = partial(getattr(self.store, metric.kind), metric)
                family: Family[Any] = Family(len(metric.labels), make)
                setattr(self, metric.name, family)
        requests = METRICS["request_duration_seconds"]
        self.request_exemplars: Family[Exemplars] = Family(
            len(requests.labels), partial(self.store.exemplars, requests)
        )

    def forget(self, model: str, version: str) -> None:
        """Let the series of an unloaded version leave what this process reports."""
        for metric in METRICS.values():
            if metric.kind != "snapshot" and "version" in metric.labels:
                getattr(self, metric.name).forget(model, version)
        self.request_exemplars.forget(model, version)
        self.store.forget(model, version)
