"""What the Prometheus operator and Grafana's sidecar read: the targets, the rules, the dashboards."""

from monitoring.dashboards import DASHBOARDS
from monitoring.grafana_json import dump
from monitoring.objectives import Objectives
from monitoring.rules import groups
from serving.kubernetes.base import named
from serving.kubernetes.installation import LABELS, NAME, Manifest

MONITORING_API = "monitoring.coreos.com/v1"
DASHBOARD_LABEL = {"grafana_dashboard": "1"}
"""By which the sidecar of Grafana's charts finds dashboards, as they are configured by default."""


def objects() -> dict[str, Manifest]:
    """File → object. `jobLabel` gives the targets the job that the rules name: the pods' name label is its value."""
    targets = {
        "jobLabel": "app.kubernetes.io/name",
        "selector": {"matchLabels": LABELS},
        "podMetricsEndpoints": [{"port": "admin", "path": "/metrics", "interval": "15s"}],
    }
    found = {
        "pod-monitor.yaml": named(MONITORING_API, "PodMonitor", targets),
        "rules.yaml": named(MONITORING_API, "PrometheusRule", groups(Objectives())),
    }
    for dashboard in DASHBOARDS:
        name = f"{NAME}-{dashboard.name}"
        found[f"dashboard-{dashboard.name}.yaml"] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{NAME}-dashboard-{dashboard.name}", "labels": LABELS | DASHBOARD_LABEL},
            "data": {f"{name}.json": dump(dashboard)},
        }
    return found
