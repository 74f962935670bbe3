"""What the service promises: the objectives that recording and alerting rules are made for. Next: recordings."""

from dataclasses import dataclass

from monitoring.metrics import METRICS


@dataclass(frozen=True)
class Objectives:
    """The objectives. availability: share of requests without a 5xx, 0..1. latency_share: share of the others that
    take at most latency_seconds, which must be a bucket of request_duration_seconds. Raises ValueError.
    """

    availability: float = 0.999
    latency_share: float = 0.99
    latency_seconds: float = 0.5

    def __post_init__(self) -> None:
        for name in ("availability", "latency_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name):g} is not allowed: give a share between 0 and 1")
        buckets = METRICS["request_duration_seconds"].buckets
        if self.latency_seconds not in buckets:
            choices = ", ".join(f"{bucket:g}" for bucket in buckets)
            raise ValueError(
                f"latency {self.latency_seconds:g} s is no bucket of the histogram: choose one of {choices}"
            )
