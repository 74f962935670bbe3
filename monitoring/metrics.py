"""Every metric, declared once: name, kind, unit, help, labels, buckets. From them come the instruments, the text of
`/metrics`, the dashboards and the rules. Next: store, which counts.

What processes count goes through shared files (`store`). What is true now (a version's state, the baseline of its
contract, a GPU's memory) is computed at the scrape: a snapshot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PREFIX = "headwaiter_"

VERSION = ("model", "version", "task")
SECONDS = (
    *(0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ROWS = tuple(float(2**power) for power in range(10))
TOKENS = tuple(float(2**power) for power in range(4, 18))
ROW_TOKENS = (4.0, *(float(2**power) for power in range(3, 14)))
SHARES = tuple(step / 10 for step in range(1, 11))

MAX_LABELS = 100
"""Labels of one version that are counted by name; all others are counted together as OTHER."""
OTHER = "(other)"
VERDICTS: Mapping[str, int] = {"pass": 1, "inconclusive": 0, "fail": -1}
"""What a guard says of a candidate, as a metric."""
INF = "+Inf"

MetricKind = Literal["counter", "gauge", "histogram", "snapshot"]
"""A gauge is summed over the processes that live. A snapshot is a gauge that is computed at the scrape."""


@dataclass(frozen=True)
class Metric:
    """One declaration. name: without the prefix, with its base unit. unit: as Grafana names it.

    buckets: upper bounds of a histogram, in the unit.
    """

    name: str
    kind: MetricKind
    unit: str
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """As Prometheus stores it; a histogram's series add `_bucket`, `_sum` and `_count`."""
        return PREFIX + self.name

    @property
    def bounds(self) -> tuple[str, ...]:
        """A histogram's buckets as its `le` label writes them."""
        return (*(str(float(bound)) for bound in self.buckets), INF)


def _declare(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


REQUESTS = _declare(
    Metric(
        "request_duration_seconds",
        "histogram",
        "s",
        "Time from a request's whole body to its answer or its error.",
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
    Metric("requests_in_progress", "gauge", "short", "Requests that wait for their answer.", VERSION),
    Metric("rejected_total", "counter", "short", "Requests that got an error, by cause.", (*VERSION, "reason")),
)

BATCHES = _declare(
    Metric("queue_tokens", "gauge", "short", "Tokens that wait in the engines' queues.", VERSION),
    Metric(
        "queue_limit_tokens", "snapshot", "short", "Tokens that the queues take before requests are refused.", VERSION
    ),
    Metric("batch_rows", "histogram", "short", "Rows of a forward pass.", VERSION, ROWS),
    Metric("batch_tokens", "histogram", "short", "Tokens of a forward pass, padding included.", VERSION, TOKENS),
    Metric("tokens_total", "counter", "short", "Tokens that went through forward passes.", (*VERSION, "kind")),
)

QUALITY = _declare(
    Metric("predictions_total", "counter", "short", "Labels that were answered.", (*VERSION, "label")),
    Metric("confidence", "histogram", "percentunit", "Scores of the answered labels, 0 to 1.", VERSION, SHARES),
    Metric("row_tokens", "histogram", "short", "Tokens of each row that was computed.", VERSION, ROW_TOKENS),
    Metric(
        "baseline_label_share",
        "snapshot",
        "percentunit",
        "Share of each label in the evaluation sample that was given at logging.",
        (*VERSION, "label"),
    ),
    Metric(
        "baseline_confidence_share",
        "snapshot",
        "percentunit",
        "Share of the sample's scores in each bucket of confidence; bin is the bucket's upper bound.",
        (*VERSION, "bin"),
    ),
    Metric(
        "baseline_row_tokens_share",
        "snapshot",
        "percentunit",
        "Share of the sample's rows in each bucket of row_tokens; bin is the bucket's upper bound.",
        (*VERSION, "bin"),
    ),
)

VERSIONS = _declare(
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
        "1 for the state of each version: loading, ready, unloaded, failed or draining.",
        (*VERSION, "state"),
    ),
    Metric("model_live", "snapshot", "bool", "1 if a model's live version answers, else 0.", ("model",)),
    Metric("registry_up", "snapshot", "bool", "1 if the registry could be read at the last poll, else 0.", ()),
    Metric(
        "manager_silence_seconds",
        "snapshot",
        "s",
        "Time since the manager's last sign of life; while it is silent no alias is followed.",
        (),
    ),
    Metric("swap_total", "counter", "short", "Changes of the live version, by outcome.", ("model", "outcome")),
    Metric(
        "swap_duration_seconds",
        "histogram",
        "s",
        "Time from seeing an alias move to serving the version. start: warm if it was loaded already, as after a "
        "rollback, else cold.",
        ("model", "start"),
        LOAD_SECONDS,
    ),
    Metric("cold_requests_total", "counter", "short", "Requests that had to wait for a version's load.", ("model",)),
    Metric("loads_on_demand_total", "counter", "short", "Loads of versions that requests wait for.", ("model",)),
    Metric(
        "unloads_total",
        "counter",
        "short",
        "Versions that left: reason memory for others, idle as nobody asked for them.",
        ("model", "reason"),
    ),
    Metric("engine_restarts_total", "counter", "short", "Engines started again after they ended.", VERSION),
)

GENERATION = _declare(
    Metric(
        "time_to_first_token_seconds", "histogram", "s", "Time from a request to its first new token.", VERSION, SECONDS
    ),
    Metric(
        "time_per_output_token_seconds",
        "histogram",
        "s",
        "Mean time between a request's new tokens after the first.",
        VERSION,
        TOKEN_SECONDS,
    ),
    Metric("prompt_tokens_total", "counter", "short", "Tokens of prompts that were taken in.", VERSION),
    Metric(
        "reused_prompt_tokens_total",
        "counter",
        "short",
        "Tokens of prompts that were not computed, because an earlier prompt began with them.",
        VERSION,
    ),
    Metric("generated_tokens_total", "counter", "short", "Tokens that were generated.", VERSION),
    Metric("running_rows", "gauge", "short", "Sequences in the decode batch.", VERSION),
    Metric("waiting_rows", "gauge", "short", "Sequences that wait to be admitted to the decode batch.", VERSION),
    Metric("cache_used_tokens", "gauge", "short", "Tokens in the key-value cache.", VERSION),
    Metric("cache_limit_tokens", "gauge", "short", "Tokens that the key-value cache can hold.", VERSION),
    Metric(
        "preemptions_total",
        "counter",
        "short",
        "Sequences that were preempted: they lost their place in the cache, and are prefilled again.",
        VERSION,
    ),
)

ROLLOUTS = _declare(
    Metric(
        "rollout_step", "snapshot", "short", "Index of the step in which a candidate's rollout is, from 0.", VERSION
    ),
    Metric(
        "rollout_weight", "snapshot", "percentunit", "Share of requests that a candidate is to answer, 0 to 1.", VERSION
    ),
    Metric(
        "rollout_verdict",
        "snapshot",
        "short",
        f"What a guard says of a candidate: {', '.join(f'{value} {word}' for word, value in VERDICTS.items())}.",
        (*VERSION, "guard"),
    ),
    Metric(
        "rollout_waiting_seconds",
        "snapshot",
        "s",
        "How much longer than planned a candidate's rollout has been in its step.",
        VERSION,
    ),
    Metric(
        "rollout_agreement",
        "histogram",
        "percentunit",
        "Agreement of a candidate's shadow answers with those that clients got, 0 to 1.",
        VERSION,
        SHARES,
    ),
    Metric(
        "rollout_shadow_total", "counter", "short", "Requests that a candidate answered, too, to be compared.", VERSION
    ),
    Metric(
        "rollout_shadow_dropped_total",
        "counter",
        "short",
        "Requests that were not compared, as a queue was over half full or they were late.",
        VERSION,
    ),
)

HARDWARE = _declare(
    Metric(
        "engine_memory_bytes",
        "gauge",
        "bytes",
        "Memory of the engine processes: kind host is in the machine's memory, device is on GPUs.",
        (*VERSION, "kind"),
    ),
    Metric("gpu_memory_bytes", "snapshot", "bytes", "Memory of each GPU: kind used or total.", ("gpu", "kind")),
    Metric(
        "gpu_utilization_ratio", "snapshot", "percentunit", "Share of the last moment that a GPU computed.", ("gpu",)
    ),
)

METRICS: dict[str, Metric] = REQUESTS | BATCHES | QUALITY | VERSIONS | GENERATION | ROLLOUTS | HARDWARE
