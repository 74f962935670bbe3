"""Prometheus' recording rules, made from the metric declarations. Next: alerts, which compare them with limits."""

from dataclasses import dataclass, field
from typing import Any

from monitoring.metrics import METRICS, PREFIX, VERSION
from monitoring.objectives import Objectives
from monitoring.queries import series

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
LABELS = ", ".join(VERSION)
DRIFT = "headwaiter:drift_psi:1h"
DRIFT_ANSWERS = 100
"""Distributions of fewer answers than this are too noisy to be compared. Untuned."""
SMALLEST_SHARE = 0.001
"""Share that stands in for an empty bucket, because the index takes logarithms. Untuned."""
BUDGET_LEFT = "headwaiter:error_budget_left:ratio3d"
"""The share of the errors that the objective allows which the last three days have not used, below 0 if overspent."""
LATENCY_OF_OBJECTIVE = "headwaiter:latency_of_objective:ratio5m"
"""The time within which the objective's share of answers came in the last five minutes (p99), of the time that the
objective names: above 1 it is missed."""
SHARE_NOW = {of: f"headwaiter:{of}_share:1h" for of in ("label", "confidence", "row_tokens")}


@dataclass(frozen=True)
class Record:
    """A recording rule."""

    name: str
    expr: str
    labels: dict[str, str] = field(default_factory=dict)

    def to_rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {"record": self.name, "expr": self.expr} | ({"labels": self.labels} if self.labels else {})


def records(objectives: Objectives) -> tuple[Record, ...]:
    """Every recording rule."""
    return (*ratios(objectives), *at_a_glance(objectives), *drift())


def ratio(of: str, window: str) -> str:
    """Name of the recorded share of requests that break an objective: `errors` or `slow`."""
    return f"{PREFIX.rstrip('_')}:{of}:ratio_rate{window}"


def ratios(objectives: Objectives) -> tuple[Record, ...]:
    """The shares of requests that break the objectives, over each window."""
    found = []
    for window in WINDOWS:
        every, failed, answered = (
            _by_model("_count", matchers, window) for matchers in ("", 'status=~"5.."', 'status!~"5.."')
        )
        quick = _by_model("_bucket", f'status!~"5..",le="{objectives.latency_seconds}"', window)
        found += [
            Record(ratio("errors", window), f"({failed} or 0 * {every}) / {every}"),
            Record(ratio("slow", window), f"1 - {quick} / {answered}"),
        ]
    return tuple(found)


def at_a_glance(objectives: Objectives) -> tuple[Record, ...]:
    """How the objectives are kept, by model, in numbers that need no objective beside them."""
    answered = _by_model("_bucket", 'status!~"5.."', "5m", "le")
    latency = f"histogram_quantile({objectives.latency_share:g}, {answered})"
    return (
        Record(BUDGET_LEFT, f"1 - {ratio('errors', WINDOWS[-1])} / {1 - objectives.availability:.6g}"),
        Record(LATENCY_OF_OBJECTIVE, f"{latency} / {objectives.latency_seconds:g}"),
    )


def _by_model(suffix: str, matchers: str, window: str, *also: str) -> str:
    kept = ", ".join(("model", *also))
    return f"sum by ({kept}) (rate({series('request_duration_seconds', matchers, suffix)}[{window}]))"


def drift() -> tuple[Record, ...]:
    """How answers and rows are distributed now, and how far that is from the version's baseline."""
    return (*_shares(), *_indices())


def _shares() -> tuple[Record, ...]:
    """The share of each label or bucket in the last hour; a bucket is the difference of two cumulative ones."""
    predictions = f"increase({series('predictions_total')}[1h])"
    found = [
        Record(
            SHARE_NOW["label"],
            f"sum by ({LABELS}, label) ({predictions}) / on ({LABELS}) group_left sum by ({LABELS}) ({predictions})",
        )
    ]
    for of in ("confidence", "row_tokens"):
        every = f"sum by ({LABELS}) (increase({series(of, suffix='_count')}[1h]))"
        below = None
        for bound in METRICS[of].bounds:
            bucket = series(of, f'le="{bound}"', "_bucket")
            up_to = f"sum by ({LABELS}) (increase({bucket}[1h]))"
            inside = f"({up_to} - {below})" if below else up_to
            found.append(Record(SHARE_NOW[of], f"{inside} / {every}", {"bin": bound}))
            below = up_to
    return tuple(found)


def _indices() -> tuple[Record, ...]:
    """The population stability index, sum of (now - baseline) * ln(now / baseline), where there is a baseline."""
    found = []
    for of, now in SHARE_NOW.items():
        name, suffix = ("predictions_total", "") if of == "label" else (of, "_count")
        key = "label" if of == "label" else "bin"
        then = f"max by ({LABELS}, {key}) ({series(f'baseline_{of}_share')})"
        there, here = (
            f"clamp_min({one} or 0 * {other}, {SMALLEST_SHARE})" for one, other in ((now, then), (then, now))
        )
        enough = f"sum by ({LABELS}) (increase({series(name, suffix=suffix)}[1h])) >= {DRIFT_ANSWERS}"
        known = f"sum by ({LABELS}) ({then})"
        index = f"sum by ({LABELS}) (({there} - {here}) * ln({there} / {here}))"
        found.append(Record(DRIFT, f"{index} and {known} and ({enough})", {"of": of}))
    return tuple(found)
