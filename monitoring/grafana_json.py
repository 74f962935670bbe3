"""Grafana's JSON: a dashboard's panels placed on the grid. Plain functions make it, because the panels need a tenth of
what Grafana's SDK models. Next: export, which writes the files.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from monitoring.metrics import METRICS
from monitoring.panels import COLOURS, QUANTILES, Dashboard, Panel
from monitoring.queries import OF_MODEL, series

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
HEIGHT, STAT_HEIGHT = 8, 4
TRACED = series("request_duration_seconds", suffix="_bucket")
"""The series that has exemplars."""
LABEL_ALONE = re.compile(r"{{(\w+)}}")
"""A legend that is the value of one label."""
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
        height = 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            number += 1
            own = STAT_HEIGHT if panel.kind == "stat" else HEIGHT
            yield _panel(panel, number, {"h": own, "w": panel.width, "x": x, "y": y})
            x, height = x + panel.width, max(height, own)
        y += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
        "transformations": _transformations(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "format": {"heatmap": "heatmap", "table": "table"}.get(panel.kind, "time_series"),
                "instant": panel.kind in ("table", "stat"),
                "exemplar": panel.kind in ("timeseries", "heatmap") and TRACED in query,
            }
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    """Of all series: unit, thresholds, words, and the colour: by the value of a stat, else by the name."""
    steps = [{"value": value if index else None, "color": color} for index, (value, color) in enumerate(panel.steps)]
    defaults: dict[str, Any] = {"unit": panel.unit}
    if steps:
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.words:
        words = {f"{value:g}": {"text": text, "index": index} for index, (value, text) in enumerate(panel.words)}
        defaults["mappings"] = [{"type": "value", "options": words}]
    if panel.kind == "stat":
        defaults["color"] = {"mode": "thresholds"} if steps else {"mode": "fixed", "fixedColor": "text"}
    if panel.kind == "timeseries":
        defaults["min"] = min(0.0, panel.steps[0][0] if steps else 0.0)
        defaults["color"] = {"mode": "palette-classic-by-name"}
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "line" if steps else "off"},
        }
    return defaults


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """The colours of series whose legend has a meaning of its own."""
    found: dict[str, str] = {}
    for _, legend in panel.queries if panel.kind == "timeseries" else ():
        label = LABEL_ALONE.fullmatch(legend)
        found |= COLOURS.get(label[1], {}) if label else {legend: QUANTILES[legend]} if legend in QUANTILES else {}
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"/^{name}$/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for name, color in found.items()
    ]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "heatmap":
        # the histogram's own buckets are the rows, so Grafana must not count again
        axis = {"axisPlacement": "left", "unit": panel.unit}
        color = {"mode": "scheme", "scheme": "Spectral", "steps": 64, "reverse": False}
        exemplars = {"color": "rgba(255,255,255,0.9)"}
        return {
            "calculate": False,
            "yAxis": axis,
            "cellValues": {"unit": "reqps"},
            "color": color,
            "exemplars": exemplars,
        }
    if panel.kind == "table":
        return {"showHeader": True}
    if panel.kind == "stat":
        return {
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "colorMode": "background" if panel.steps else "value",
            "graphMode": "none",
            "textMode": "name" if panel.shows_name else "value",
        }
    return {"legend": {"displayMode": "list", "placement": "bottom"}}


def _transformations(panel: Panel) -> list[dict[str, Any]]:
    if panel.kind != "table":
        return []
    return [{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}]
