"""Prometheus' alerting rules, each with its runbook. Next: rules, which groups them.

The burn-rate alerts follow the Site Reliability Workbook, chapter 5: an error budget that would be gone in days pages
at once, one that would be gone in weeks becomes a ticket, each over a long and a short window so that it also ends.
"""

from dataclasses import dataclass
from typing import Any

from monitoring.objectives import Objectives
from monitoring.queries import series
from monitoring.recordings import DRIFT, ratio

RUNBOOKS = "https://github.com/headwaiter/headwaiter/blob/main/docs/runbooks"
FAST = ((14.4, "1h", "5m"), (6.0, "6h", "30m"))
SLOW = ((3.0, "1d", "2h"), (1.0, "3d", "6h"))
"""(how many times faster than allowed the budget burns, long window, short window)"""
DRIFT_LIMIT = 0.25
ROLLOUT_LATE_SECONDS = 3600
"""How much longer than planned a rollout may stay in a step. Untuned: small shares of few requests take long."""
FAILED_SWAPS = series("swap_total", 'outcome=~"failure|crashed"')


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


STATES = (
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
        "No version of it has answered for two minutes; requests get 503.",
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
        f"The population stability index of the last hour is {{{{ $value | humanize }}}}, above {DRIFT_LIMIT}.",
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
"""The alerts that no objective changes."""


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
        *STATES,
    )


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
