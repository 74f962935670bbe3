"""The content of Prometheus' rule file: recordings and alerts in groups. Next: export, which writes it."""

from typing import Any

from monitoring.alerts import Alert, alerts
from monitoring.objectives import Objectives
from monitoring.recordings import Record, at_a_glance, drift, ratios


def groups(objectives: Objectives) -> dict[str, Any]:
    """The rule file's content."""
    by_group: dict[str, tuple[str, tuple[Record | Alert, ...]]] = {
        "headwaiter-objectives": ("30s", (*ratios(objectives), *at_a_glance(objectives))),
        "headwaiter-drift": ("30s", drift()),
        "headwaiter-alerts": ("30s", alerts(objectives)),
    }
    return {
        "groups": [
            {"name": name, "interval": interval, "rules": [rule.to_rule() for rule in rules]}
            for name, (interval, rules) in by_group.items()
        ]
    }
