"""Draws a dashboard's panels from a Prometheus, without Grafana: `python docs/draw_dashboard.py URL OUT.png`."""

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates
import matplotlib.pyplot as plt

from monitoring.dashboards import DASHBOARDS
from monitoring.panels import Panel

COLUMNS = 3
COLOURS = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]


def main() -> None:
    """Draw the dashboard that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="Prometheus, as http://127.0.0.1:9090")
    parser.add_argument("out", help="the picture, a .png")
    parser.add_argument("--dashboard", default="overview", choices=[dashboard.name for dashboard in DASHBOARDS])
    parser.add_argument("--minutes", type=float, default=15)
    options = parser.parse_args()
    dashboard = next(each for each in DASHBOARDS if each.name == options.dashboard)
    panels = [panel for _, row in dashboard.rows for panel in row if panel.kind != "table"]
    rows = math.ceil(len(panels) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(15, 2.7 * rows), layout="constrained", squeeze=False)
    end = time.time()
    for axis, panel in zip(axes.flat, panels, strict=False):
        draw(axis, panel, options.url, end - 60 * options.minutes, end)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    figure.suptitle(f"Headwaiter / {dashboard.title}", fontsize=13)
    figure.savefig(options.out, dpi=70)


def draw(axis: Any, panel: Panel, url: str, start: float, end: float) -> None:
    """One panel."""
    axis.set_title(f"{panel.title} [{panel.unit}]", fontsize=9, loc="left")
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    found = [(legend, series) for query, legend in panel.queries for series in ask(url, query, start, end)]
    axis.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M:%S"))
    axis.xaxis.set_major_locator(matplotlib.dates.AutoDateLocator(maxticks=5))
    if not found:
        axis.text(0.5, 0.5, "no data", ha="center", transform=axis.transAxes)
    elif panel.kind == "heatmap":
        draw_heat_map(axis, [series for _, series in found])
    elif panel.stacked:
        draw_stacked(axis, found)
    else:
        for (legend, series), colour in zip(found, COLOURS * len(found), strict=False):
            axis.plot(*points(series), label=name(legend, series), color=colour, linewidth=1.2)
    if panel.kind != "heatmap" and found:
        axis.legend(fontsize=6, loc="upper left", ncols=2, framealpha=0.5)
        axis.set_ylim(bottom=0)


def draw_stacked(axis: Any, found: list[tuple[str, dict[str, Any]]]) -> None:
    """Areas above one another; a series without a value at some time is 0 there."""
    times = sorted({at for _, series in found for at, _ in series["values"]})
    heights = [[float(dict(series["values"]).get(at, 0)) for at in times] for _, series in found]
    heights = [[0.0 if math.isnan(value) else value for value in row] for row in heights]
    axis.stackplot(moments(times), heights, labels=[name(legend, series) for legend, series in found], alpha=0.7)


def draw_heat_map(axis: Any, found: list[dict[str, Any]]) -> None:
    """Requests a second in each bucket, which is the difference of cumulative ones."""
    found.sort(key=lambda series: float(series["metric"]["le"]))
    times = sorted({at for series in found for at, _ in series["values"]})
    cumulated = [[float(dict(series["values"]).get(at, 0)) for at in times] for series in found]
    cells = [cumulated[0]] + [
        [high - low for high, low in zip(upper, lower, strict=True)]
        for upper, lower in zip(cumulated[1:], cumulated, strict=False)
    ]
    axis.pcolormesh(moments(times), range(len(found)), cells, cmap="Blues", shading="nearest")
    axis.set_yticks(range(0, len(found), 3), [series["metric"]["le"] for series in found][::3])


def ask(url: str, query: str, start: float, end: float) -> list[dict[str, Any]]:
    """The series of a range query, with the dashboard's variables set to all."""
    query = re.sub(r"\$(model|version|task)", ".*", query).replace("$__rate_interval", "20s")
    parameters = {"query": query, "start": start, "end": end, "step": 5}
    address = f"{url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310  # the user's own Prometheus
        series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return series


def name(legend: str, series: dict[str, Any]) -> str:
    """Grafana's legend format."""
    return re.sub(r"{{(\w+)}}", lambda found: str(series["metric"].get(found[1], "")), legend)


def points(series: dict[str, Any]) -> tuple[list[datetime], list[float]]:
    """Moments and values."""
    return moments([at for at, _ in series["values"]]), [float(value) for _, value in series["values"]]


def moments(times: list[float]) -> list[datetime]:
    """Unix times as matplotlib draws them."""
    return [datetime.fromtimestamp(at, UTC) for at in times]


if __name__ == "__main__":
    main()
