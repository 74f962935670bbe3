"""The Grafana dashboard, built from the metric declarations, so that no query can name a metric that is not there.

`python -m monitoring.dashboard` writes `grafana/dashboards/headwaiter-overview.json`. Plain functions make Grafana's
JSON: the panels need a tenth of what Grafana's SDK models.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.metrics import METRICS

TARGET = Path(__file__).parent / "grafana" / "dashboards" / "headwaiter-overview.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
FILTER = 'model=~"$model",version=~"$version",task=~"$task"'
WINDOW = "[$__rate_interval]"
COLUMNS = 24
HEIGHT = 8


@dataclass(frozen=True)
class Panel:
    """One panel. queries: (PromQL, legend). unit: Grafana's name. steps: (from value, colour) thresholds."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    stacked: bool = False


def rate(name: str, *by: str, filters: str = FILTER, suffix: str = "") -> str:
    """PromQL: the per-second rate of a counter, or of a histogram's `suffix` series, summed over all but `by`."""
    return f"sum by ({', '.join(by)}) (rate({METRICS[name].full_name}{suffix}{{{filters}}}{WINDOW}))"


def quantile(share: float, name: str, *by: str, filters: str = FILTER) -> str:
    """PromQL: a quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(name, 'le', *by, filters=filters, suffix='_bucket')})"


def mean(name: str, *by: str) -> str:
    """PromQL: the mean of what a histogram observed."""
    return f"{rate(name, *by, suffix='_sum')} / {rate(name, *by, suffix='_count')}"


def total(name: str, *by: str) -> str:
    """PromQL: a gauge summed over all but `by`."""
    return f"sum by ({', '.join(by)}) ({METRICS[name].full_name}{{{FILTER}}})"


OF_MODEL = 'model=~"$model"'
PADDING = FILTER + ',kind="padding"'
BAD = FILTER + ',status=~"5.."'

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "What is served",
        (
            Panel(
                "Live versions",
                "Each loaded version with its aliases, head, dtype and device.",
                "short",
                ((f"{METRICS['model_info'].full_name}{{{FILTER}}}", ""),),
                kind="table",
                width=12,
            ),
            Panel(
                "States",
                "Versions by state. One that stays failed has its cause in GET /models/{name}.",
                "short",
                ((total("model_state", "model", "version", "state"), "{{model}}/{{version}} {{state}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                "Engine restarts",
                "Engines started again after they ended. Any restart has a cause in the log.",
                "short",
                (
                    (
                        f"sum by (model, version) (increase({METRICS['engine_restarts_total'].full_name}"
                        f"{{{FILTER}}}{WINDOW}))",
                        "{{model}}/{{version}}",
                    ),
                ),
                width=6,
                steps=((0, "green"), (1, "red")),
            ),
        ),
    ),
    (
        "Traffic and errors",
        (
            Panel(
                "Requests per second",
                "Answered and refused requests, by model and version.",
                "reqps",
                ((rate("request_duration_seconds", "model", "version", suffix="_count"), "{{model}}/{{version}}"),),
            ),
            Panel(
                "Share of server errors",
                "Requests that ended with a 5xx status, of all.",
                "percentunit",
                (
                    (
                        f"{rate('request_duration_seconds', 'model', filters=BAD, suffix='_count')} / "
                        f"{rate('request_duration_seconds', 'model', suffix='_count')}",
                        "{{model}}",
                    ),
                ),
                steps=((0, "green"), (0.001, "orange"), (0.01, "red")),
            ),
            Panel(
                "Requests by protocol and status",
                "What clients were told.",
                "reqps",
                (
                    (
                        rate("request_duration_seconds", "protocol", "status", suffix="_count"),
                        "{{protocol}} {{status}}",
                    ),
                ),
                stacked=True,
            ),
        ),
    ),
    (
        "Latency",
        (
            Panel(
                "Latency of requests",
                "p50, p95 and p99 from the whole body to the answer.",
                "s",
                tuple(
                    (quantile(share, "request_duration_seconds", "model"), f"{{{{model}}}} p{share * 100:g}")
                    for share in (0.5, 0.95, 0.99)
                ),
            ),
            Panel(
                "Latency heat map",
                "How many requests took how long.",
                "s",
                ((rate("request_duration_seconds", "le", suffix="_bucket"), "{{le}}"),),
                kind="heatmap",
            ),
            Panel(
                "Where the time goes",
                "Mean time of an answered request in each stage; together they are the request.",
                "s",
                ((mean("stage_duration_seconds", "stage"), "{{stage}}"),),
                stacked=True,
            ),
        ),
    ),
    (
        "Saturation",
        (
            Panel(
                "Requests in progress",
                "Requests that wait for their answer now.",
                "short",
                ((total("requests_in_progress", "model", "version"), "{{model}}/{{version}}"),),
                width=6,
            ),
            Panel(
                "Tokens in the queue",
                "Tokens that wait for a forward pass now. Past the bound, requests are refused.",
                "short",
                ((total("queue_tokens", "model", "version"), "{{model}}/{{version}}"),),
                width=6,
            ),
            Panel(
                "Refused requests",
                "Requests that got an error instead of an answer, by reason.",
                "reqps",
                ((rate("rejected_total", "model", "reason"), "{{model}} {{reason}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                "Padding",
                "Share of the computed tokens that were padding. Lower is better.",
                "percentunit",
                (
                    (
                        f"{rate('tokens_total', 'model', filters=PADDING)} / {rate('tokens_total', 'model')}",
                        "{{model}}",
                    ),
                ),
                width=6,
                steps=((0, "green"), (0.2, "orange"), (0.4, "red")),
            ),
            Panel(
                "Rows of a batch",
                "Mean and p95 number of rows in a forward pass.",
                "short",
                (
                    (mean("batch_rows", "model"), "{{model}} mean"),
                    (quantile(0.95, "batch_rows", "model"), "{{model}} p95"),
                ),
                width=12,
            ),
            Panel(
                "Tokens of a batch",
                "Mean and p95 number of tokens in a forward pass, padding included.",
                "short",
                (
                    (mean("batch_tokens", "model"), "{{model}} mean"),
                    (quantile(0.95, "batch_tokens", "model"), "{{model}} p95"),
                ),
                width=12,
            ),
        ),
    ),
    (
        "Versions and predictions",
        (
            Panel(
                "Changes of the live version",
                "Versions that went live or failed to, in the window.",
                "short",
                (
                    (
                        f"sum by (model, outcome) (increase({METRICS['swap_total'].full_name}{{{OF_MODEL}}}{WINDOW}))",
                        "{{model}} {{outcome}}",
                    ),
                ),
                width=6,
            ),
            Panel(
                "Time to change",
                "p95 from seeing an alias move to serving the new version.",
                "s",
                ((quantile(0.95, "swap_duration_seconds", "model", filters=OF_MODEL), "{{model}}"),),
                width=6,
            ),
            Panel(
                "Shares of labels",
                "Which labels are answered, by version: a shift shows drift or a changed model.",
                "percentunit",
                (
                    (
                        f"{rate('predictions_total', 'model', 'version', 'label')} / on (model, version) group_left "
                        f"{rate('predictions_total', 'model', 'version')}",
                        "{{model}}/{{version}} {{label}}",
                    ),
                ),
                width=6,
                stacked=True,
            ),
            Panel(
                "Confidence",
                "Median and 10th percentile of the scores of answered labels.",
                "percentunit",
                tuple(
                    (
                        quantile(share, "confidence", "model", "version"),
                        f"{{{{model}}}}/{{{{version}}}} p{share * 100:g}",
                    )
                    for share in (0.1, 0.5)
                ),
                width=6,
            ),
        ),
    ),
)


def build() -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    return {
        "uid": "headwaiter-overview",
        "title": "Headwaiter / Service overview",
        "description": "Traffic, errors, latency, saturation and versions of the served models.",
        "tags": ["headwaiter"],
        "timezone": "browser",
        "editable": True,
        "schemaVersion": 41,
        "version": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def dump() -> str:
    """The JSON text that is committed."""
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"


def _variables() -> Iterable[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    known = METRICS["model_state"].full_name
    for name, query in (
        ("model", f"label_values({known}, model)"),
        ("version", f'label_values({known}{{model=~"$model"}}, version)'),
        ("task", f'label_values({known}{{model=~"$model"}}, task)'),
    ):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "query": query,
            "definition": query,
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def _panels() -> Iterable[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y}}
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            number += 1
            yield _panel(panel, number, x, y)
            x += panel.width
        y += HEIGHT


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps = [{"value": value if index else None, "color": color} for index, (value, color) in enumerate(panel.steps)]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if steps:
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "line" if steps else "off"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if panel.kind == "timeseries" else {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "format": {"heatmap": "heatmap", "table": "table"}.get(panel.kind, "time_series"),
                "instant": panel.kind == "table",
            }
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }


def main() -> None:
    """Write the JSON."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(dump(), encoding="utf-8")


if __name__ == "__main__":
    main()
