"""Prometheus' recording and alerting rules, made from the metric declarations. Next: export, which writes them.

The burn-rate alerts follow the Site Reliability Workbook, chapter 5: an error budget that would be gone in days pages
at once, one that would be gone in weeks becomes a ticket, each over a long and a short window so that it also ends.
"""

from dataclasses import dataclass, field
from typing import Any

from monitoring.metrics import METRICS, PREFIX
from monitoring.queries import series

RUNBOOKS = "https://github.com/headwaiter/headwaiter/blob/main/docs/runbooks"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
FAST = ((14.4, "1h", "5m"), (6.0, "6h", "30m"))
SLOW = ((3.0, "1d", "2h"), (1.0, "3d", "6h"))
"""(how many times faster than allowed the budget burns, long window, short window)"""

VERSION = "model, version, task"
DRIFT = "headwaiter:drift_psi:1h"
DRIFT_LIMIT = 0.25
DRIFT_ANSWERS = 100
"""Distributions of fewer answers than this are too noisy to be compared. Untuned."""
SMALLEST_SHARE = 0.001
"""Share that stands in for an empty bucket, because the index takes logarithms. Untuned."""
ROLLOUT_LATE_SECONDS = 3600
"""How much longer than planned a rollout may stay in a step. Untuned: small shares of few requests take long."""
FAILED_SWAPS = series("swap_total", 'outcome=~"failure|crashed"')
SHARE_NOW = {of: f"headwaiter:{of}_share:1h" for of in ("label", "confidence", "row_tokens")}


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


@dataclass(frozen=True)
class Record:
    """A recording rule."""

    name: str
    expr: str
    labels: dict[str, str] = field(default_factory=dict)

    def to_rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {"record": self.name, "expr": self.expr} | ({"labels": self.labels} if self.labels else {})


@dataclass(frozen=True)
class Alert:
    """An alerting rule. severity: page, for a person now, or ticket, for a working day. page: its runbook's file."""

    name: str
    expr: str
    wait: str
    severity: str
    page: str
    summary: str
    description: str

    def to_rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{RUNBOOKS}/{self.page}.md",
            },
        }


def records(objectives: Objectives) -> tuple[Record, ...]:
    """Every recording rule."""
    return (*_ratios(objectives), *_shares(), *_drift())


def alerts(objectives: Objectives) -> tuple[Alert, ...]:
    """Every alerting rule."""
    return (
        *_burns("Error", "error-budget-burn", "errors", 1 - objectives.availability, "requests fail with a 5xx status"),
        *_burns(
            "Latency",
            "latency-budget-burn",
            "slow",
            1 - objectives.latency_share,
            f"answers take longer than {objectives.latency_seconds:g} s",
        ),
        Alert(
            "HeadwaiterDown",
            'up{job="headwaiter"} == 0',
            "1m",
            "page",
            "down",
            "Headwaiter at {{ $labels.instance }} does not answer",
            "Prometheus has not been able to scrape it for a minute.",
        ),
        Alert(
            "HeadwaiterNoLiveVersion",
            f"min by (model, instance) ({series('model_live')}) == 0",
            "2m",
            "page",
            "no-live-version",
            "{{ $labels.model }} has no live version",
            "Its requests have got 503 for two minutes.",
        ),
        Alert(
            "HeadwaiterSwapFailed",
            f"sum by (model, instance) (increase({FAILED_SWAPS}[15m])) > 0",
            "0m",
            "ticket",
            "swap-failed",
            "A version of {{ $labels.model }} could not be loaded, or crashed again and again",
            "The version before serves.",
        ),
        Alert(
            "HeadwaiterRolloutStuck",
            f"max by (model, version, instance) ({series('rollout_waiting_seconds')}) > {ROLLOUT_LATE_SECONDS}",
            "5m",
            "ticket",
            "rollout-stuck",
            "The rollout of {{ $labels.model }}/{{ $labels.version }} does not go on",
            "It has been in its step for {{ $value | humanizeDuration }} longer than planned.",
        ),
        Alert(
            "HeadwaiterEngineCrashLoop",
            f"sum by (model, version, instance) (increase({series('engine_restarts_total')}[15m])) > 2",
            "0m",
            "page",
            "engine-crash-loop",
            "Engines of {{ $labels.model }}/{{ $labels.version }} keep ending",
            "They were started again {{ $value | humanize }} times in 15 minutes.",
        ),
        Alert(
            "HeadwaiterQueueNearBound",
            f"sum by (model, version, instance) ({series('queue_tokens')}) "
            f"/ sum by (model, version, instance) ({series('queue_limit_tokens')}) > 0.8",
            "2m",
            "page",
            "queue-near-bound",
            "The queue of {{ $labels.model }}/{{ $labels.version }} is nearly full",
            "{{ $value | humanizePercentage }} of its bound are in use; past it requests get 429.",
        ),
        Alert(
            "HeadwaiterDrift",
            f"{DRIFT} > {DRIFT_LIMIT}",
            "30m",
            "ticket",
            "drift",
            "{{ $labels.of }} of {{ $labels.model }}/{{ $labels.version }} has drifted from its baseline",
            "The population stability index of the last hour is {{ $value | humanize }}, above 0.25.",
        ),
        Alert(
            "HeadwaiterRegistryUnreachable",
            f"{series('registry_up')} == 0 or {series('manager_silence_seconds')} > 60",
            "5m",
            "ticket",
            "registry-unreachable",
            "Headwaiter at {{ $labels.instance }} does not follow its registry",
            "What is loaded goes on serving; promotions and rollbacks have no effect.",
        ),
    )


def groups(objectives: Objectives) -> dict[str, Any]:
    """The rule file's content."""
    by_group: dict[str, tuple[str, tuple[Record | Alert, ...]]] = {
        "headwaiter-objectives": ("30s", _ratios(objectives)),
        "headwaiter-drift": ("30s", (*_shares(), *_drift())),
        "headwaiter-alerts": ("30s", alerts(objectives)),
    }
    return {
        "groups": [
            {"name": name, "interval": interval, "rules": [rule.to_rule() for rule in rules]}
            for name, (interval, rules) in by_group.items()
        ]
    }


def ratio(of: str, window: str) -> str:
    """Name of the recorded share of requests that break an objective: `errors` or `slow`."""
    return f"{PREFIX.rstrip('_')}:{of}:ratio_rate{window}"


def _ratios(objectives: Objectives) -> tuple[Record, ...]:
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


def _by_model(suffix: str, matchers: str, window: str) -> str:
    return f"sum by (model) (rate({series('request_duration_seconds', matchers, suffix)}[{window}]))"


def _burns(name: str, page: str, of: str, budget: float, what: str) -> tuple[Alert, Alert]:
    def burning(speeds: tuple[tuple[float, str, str], ...]) -> str:
        return " or ".join(
            f"({ratio(of, long)} > {speed * budget:.6g} and {ratio(of, short)} > {speed * budget:.6g})"
            for speed, long, short in speeds
        )

    shown = "{{ $value | humanizePercentage }} of the requests to {{ $labels.model }}"
    return (
        Alert(
            f"Headwaiter{name}BudgetBurnFast",
            burning(FAST),
            "1m",
            "page",
            page,
            f"Too many {what}: {{{{ $labels.model }}}}",
            f"{shown} break the objective; the month's budget of {budget:.3%} would be gone in days.",
        ),
        Alert(
            f"Headwaiter{name}BudgetBurnSlow",
            burning(SLOW),
            "15m",
            "ticket",
            page,
            f"Many {what}: {{{{ $labels.model }}}}",
            f"{shown} break the objective; the month's budget of {budget:.3%} would be gone before its end.",
        ),
    )


def _shares() -> tuple[Record, ...]:
    """The share of each label or bucket in the last hour; a bucket is the difference of two cumulative ones."""
    predictions = f"increase({series('predictions_total')}[1h])"
    found = [
        Record(
            SHARE_NOW["label"],
            f"sum by ({VERSION}, label) ({predictions}) / on ({VERSION}) group_left sum by ({VERSION}) ({predictions})",
        )
    ]
    for of in ("confidence", "row_tokens"):
        every = f"sum by ({VERSION}) (increase({series(of, suffix='_count')}[1h]))"
        below = None
        for bound in METRICS[of].bounds:
            bucket = series(of, f'le="{bound}"', "_bucket")
            up_to = f"sum by ({VERSION}) (increase({bucket}[1h]))"
            inside = f"({up_to} - {below})" if below else up_to
            found.append(Record(SHARE_NOW[of], f"{inside} / {every}", {"bin": bound}))
            below = up_to
    return tuple(found)


def _drift() -> tuple[Record, ...]:
    """The population stability index, sum of (now - baseline) * ln(now / baseline), where there is a baseline."""
    found = []
    for of, now in SHARE_NOW.items():
        name, suffix = ("predictions_total", "") if of == "label" else (of, "_count")
        key = "label" if of == "label" else "bin"
        then = f"max by ({VERSION}, {key}) ({series(f'baseline_{of}_share')})"
        there, here = (
            f"clamp_min({one} or 0 * {other}, {SMALLEST_SHARE})" for one, other in ((now, then), (then, now))
        )
        enough = f"sum by ({VERSION}) (increase({series(name, suffix=suffix)}[1h])) >= {DRIFT_ANSWERS}"
        known = f"sum by ({VERSION}) ({then})"
        index = f"sum by ({VERSION}) (({there} - {here}) * ln({there} / {here}))"
        found.append(Record(DRIFT, f"{index} and {known} and ({enough})", {"of": of}))
    return tuple(found)
