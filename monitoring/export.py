"""Everything that Prometheus, Alertmanager and Grafana read, as files: `headwaiter monitoring export DIR`.

`python -m monitoring.export` writes the committed ones, beside this file.
"""

import io
from pathlib import Path
from typing import Any

import yaml

from monitoring.dashboards import DASHBOARDS
from monitoring.grafana_json import dump
from monitoring.objectives import Objectives
from monitoring.rules import groups
from monitoring.text_formats import TRACE_LABEL

TARGET = "localhost:3000"
PROMETHEUS = "http://localhost:9090"
ALERTMANAGER = "localhost:9093"
TRACES = "headwaiter-traces"
"""The data source of traces, for Grafana."""


def files(
    targets: tuple[str, ...] = (TARGET,),
    prometheus: str = PROMETHEUS,
    objectives: Objectives | None = None,
    tempo: str = "",
) -> dict[str, str]:
    """Path below the export's folder → content. targets: HOST:PORT of servers. prometheus: its address for Grafana.

    tempo: the address of a Grafana Tempo that has the servers' traces, to which exemplars then lead.
    """
    found = {
        "prometheus/prometheus.yml": _yaml(_prometheus(targets), "Mount this folder at /etc/prometheus."),
        "prometheus/rules.yml": _yaml(groups(objectives or Objectives()), "Recording and alerting rules."),
        "alertmanager/alertmanager.yml": _yaml(
            _alertmanager(), "An example: say where pages and tickets go. Mount this folder at /etc/alertmanager."
        ),
        "grafana/provisioning/datasources/headwaiter.yml": _yaml(
            _data_sources(prometheus, tempo), "Where the numbers are."
        ),
        "grafana/provisioning/dashboards/headwaiter.yml": _yaml(
            _provider(),
            "Mount grafana/provisioning at /etc/grafana/provisioning, or let GF_PATHS_PROVISIONING name it.",
        ),
    }
    for dashboard in DASHBOARDS:
        found[f"grafana/provisioning/dashboards/headwaiter-{dashboard.name}.json"] = dump(dashboard)
    return found


def export(folder: Path, contents: dict[str, str]) -> list[Path]:
    """Write the files below `folder`, over older ones; returns their paths. Raises OSError."""
    written = []
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        written.append(path)
    return written


def _prometheus(targets: tuple[str, ...]) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "5s", "evaluation_interval": "30s"},
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [ALERTMANAGER]}]}]},
        "scrape_configs": [{"job_name": "headwaiter", "static_configs": [{"targets": list(targets)}]}],
    }


def _alertmanager() -> dict[str, Any]:
    return {
        "route": {
            "receiver": "tickets",
            "group_by": ["alertname", "model"],
            "routes": [{"receiver": "pages", "matchers": ['severity="page"']}],
        },
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="HeadwaiterDown"'],
                "target_matchers": ['alertname=~"Headwaiter.+"', 'severity="ticket"'],
                "equal": ["instance"],
            }
        ],
        "receivers": [
            {"name": "pages", "webhook_configs": [{"url": "http://localhost:9099/page"}]},
            {"name": "tickets", "webhook_configs": [{"url": "http://localhost:9099/ticket"}]},
        ],
    }


def _data_sources(prometheus: str, tempo: str) -> dict[str, Any]:
    numbers = {"name": "Prometheus", "type": "prometheus", "access": "proxy", "url": prometheus, "isDefault": True}
    details: dict[str, Any] = {"timeInterval": "5s"}
    if not tempo:
        return {"apiVersion": 1, "datasources": [numbers | {"jsonData": details}]}
    traces = {"name": "Tempo", "type": "tempo", "access": "proxy", "url": tempo, "uid": TRACES}
    details["exemplarTraceIdDestinations"] = [{"name": TRACE_LABEL, "datasourceUid": TRACES}]
    return {"apiVersion": 1, "datasources": [numbers | {"jsonData": details}, traces]}


def _provider() -> dict[str, Any]:
    options = {"path": "$GF_PATHS_PROVISIONING/dashboards"}
    provider = {"name": "headwaiter", "folder": "Headwaiter", "type": "file", "options": options}
    return {"apiVersion": 1, "providers": [provider]}


def _yaml(content: dict[str, Any], comment: str) -> str:
    text = io.StringIO()
    text.write(f"# {comment} Made by `headwaiter monitoring export`.\n")
    yaml.safe_dump(content, text, sort_keys=False, width=120, allow_unicode=True)
    return text.getvalue()


if __name__ == "__main__":
    export(Path(__file__).parent, files())
