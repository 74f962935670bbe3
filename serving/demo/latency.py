"""Latencies for people, from the text of /metrics: what a dashboard would show of the histograms."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from monitoring.metrics import METRICS

Buckets = Mapping[float, float]
"""Upper bound in seconds → how many were at most that."""


def read_latencies(exposition: str) -> Iterator[str]:
    """One line for whole requests and one for each stage: count, mean, p50 and p99."""
    from prometheus_client.parser import text_string_to_metric_families

    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    sums: dict[str, float] = defaultdict(float)
    names = {METRICS["request_duration_seconds"].full_name: "request", METRICS["stage_duration_seconds"].full_name: ""}
    for family in text_string_to_metric_families(exposition):
        if family.name not in names:
            continue
        for sample in family.samples:
            part = sample.labels.get("stage", "request")
            if sample.name.endswith("_bucket"):
                buckets[part][float(sample.labels["le"])] += sample.value
            elif sample.name.endswith("_sum"):
                sums[part] += sample.value
    for part in ("request", "encode", "queue", "forward", "decode"):
        count = max(buckets[part].values(), default=0.0)
        if count:
            p50, p99 = (estimate_quantile(buckets[part], share) * 1e3 for share in (0.5, 0.99))
            mean = sums[part] / count * 1e3
            yield f"{part:8} {count:5.0f} ×   mean {mean:7.2f} ms   p50 {p50:7.2f} ms   p99 {p99:7.2f} ms"


def estimate_quantile(buckets: Buckets, share: float) -> float:
    """The quantile in seconds, linear within its bucket, as PromQL's histogram_quantile has it."""
    wanted = share * max(buckets.values())
    below, low = 0.0, 0.0
    for bound in sorted(buckets):
        if buckets[bound] >= wanted:
            if bound == float("inf"):
                return low
            inside = buckets[bound] - below
            return low + (bound - low) * ((wanted - below) / inside if inside else 1.0)
        below, low = buckets[bound], bound
    return low
