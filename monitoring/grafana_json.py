"""Grafana's JSON: a dashboard's panels placed on the grid. Plain functions make it, because the panels need a tenth of
what Grafana's SDK models. Next: export, which writes the files.
"""

import json
from collections.abc import Iterable
from typing import Any

from monitoring.metrics import METRICS
from monitoring.panels import Dashboard, Panel
from monitoring.queries import OF_MODEL, series

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
HEIGHT = 8
SWAPS = {
    "name": "Swaps",
    "datasource": SOURCE,
    "enable": True,
    "iconColor": "purple",
    "expr": f"sum by (model, outcome) (increase({series('swap_total', OF_MODEL)}[1m])) > 0",
    "step": "30s",
    "titleFormat": "{{model}}: change of the live version, {{outcome}}",
    "tagKeys": "model,outcome",
}
ROLLOUT_STEP = series("rollout_step", OF_MODEL)
ROLLOUT_STEPS = {
    "name": "Steps of rollouts",
    "datasource": SOURCE,
    "enable": True,
    "iconColor": "blue",
    "expr": (
        f"sum by (model, version) (changes({ROLLOUT_STEP}[1m])) > 0"
        f" or sum by (model, version) ({ROLLOUT_STEP} unless {ROLLOUT_STEP} offset 1m) >= 0"
    ),
    "step": "30s",
    "titleFormat": "{{model}}: rollout of {{version}}, a new step",
    "tagKeys": "model,version",
}
ROLLOUT_ENDS = {
    "name": "Ends of rollouts",
    "datasource": SOURCE,
    "enable": True,
    "iconColor": "red",
    "expr": f"sum by (model, version) ({ROLLOUT_STEP} offset 1m unless {ROLLOUT_STEP}) >= 0",
    "step": "30s",
    "titleFormat": "{{model}}: rollout of {{version}}, promoted or ended",
    "tagKeys": "model,version",
}
WRITTEN = {
    "name": "Rollouts, as written by the server",
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "iconColor": "orange",
    "target": {"type": "tags", "tags": ["headwaiter", "rollout"], "matchAny": False, "limit": 100},
}
"""Annotations by Grafana's API, where HEADWAITER_GRAFANA_URL is set: they say which guard failed, and its figures."""
LINKS = {
    "type": "dashboards",
    "title": "Headwaiter",
    "tags": ["headwaiter"],
    "includeVars": True,
    "keepTime": True,
    "asDropdown": False,
}


def build(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    return {
        "uid": f"headwaiter-{dashboard.name}",
        "title": f"Headwaiter / {dashboard.title}",
        "description": dashboard.description,
        "tags": ["headwaiter"],
        "timezone": "browser",
        "editable": True,
        "schemaVersion": 41,
        "version": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "annotations": {"list": [SWAPS, ROLLOUT_STEPS, ROLLOUT_ENDS, WRITTEN]},
        "links": [LINKS],
        "panels": list(_panels(dashboard)),
    }


def dump(dashboard: Dashboard) -> str:
    """The JSON text that is committed."""
    return json.dumps(build(dashboard), indent=2, ensure_ascii=False) + "\n"


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


def _panels(dashboard: Dashboard) -> Iterable[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in dashboard.rows:
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
        "options": _options(panel),
        "transformations": _transformations(panel),
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


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "heatmap":
        # the histogram's own buckets are the rows, so Grafana must not count again
        axis = {"axisPlacement": "left", "unit": panel.unit}
        color = {"mode": "scheme", "scheme": "Spectral", "steps": 64, "reverse": False}
        return {"calculate": False, "yAxis": axis, "cellValues": {"unit": "reqps"}, "color": color}
    if panel.kind == "table":
        return {"showHeader": True}
    return {"legend": {"displayMode": "list", "placement": "bottom"}}


def _transformations(panel: Panel) -> list[dict[str, Any]]:
    if panel.kind != "table":
        return []
    return [{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}]
