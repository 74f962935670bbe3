"""Draws a dashboard as Grafana lays it out, from a Prometheus, without Grafana: `draw_dashboard.py URL OUT.png`."""

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from monitoring.dashboards import DASHBOARDS
from monitoring.grafana_json import COLUMNS, build

WIDTH, UNIT, HEAD = 15.0, 0.26, 0.4
"""Inches: of the picture, of a row of Grafana's grid, of the title."""
LEFT, RIGHT, TOP, BOTTOM = 0.6, 0.12, 0.3, 0.5
"""Inches between a panel's edge and its axes."""
COLOURS = {
    "green": "#73bf69",
    "orange": "#ff9830",
    "red": "#f2495c",
    "yellow": "#fade2a",
    "light-blue": "#8ab8ff",
    "blue": "#5794f2",
    "dark-blue": "#1f60c4",
    "light-purple": "#ca95e5",
    "purple": "#b877d9",
    "dark-purple": "#8f3bb8",
    "light-yellow": "#ffee52",
    "dark-yellow": "#e0b400",
}
"""Grafana's, by their names there."""
PALETTE = ("tab:blue", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan", "tab:gray", "navy", "plum")
"""Of series without a colour of their own: none that says how well something is."""
FORMATS: Mapping[str, Callable[[float], str]] = {
    "percentunit": lambda value: f"{value:.3g}" if not math.isfinite(value) else f"{100 * value:.3g} %",
    "reqps": lambda value: f"{value:.3g} req/s",
    "s": lambda value: f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms",
    "bytes": lambda value: f"{value / 2**20:.3g} MiB",
}
INTERNAL = {"__name__", "job", "instance"}
"""Labels that a table leaves out."""
Series = tuple[str, dict[str, Any]]
"""Its legend, and what Prometheus says of it."""


def main() -> None:
    """Draw the dashboard that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="Prometheus, as http://127.0.0.1:9090")
    parser.add_argument("out", help="the picture, a .png")
    parser.add_argument("--dashboard", default="overview", choices=[dashboard.name for dashboard in DASHBOARDS])
    parser.add_argument("--minutes", type=float, default=15)
    options = parser.parse_args()
    dashboard = build(next(each for each in DASHBOARDS if each.name == options.dashboard))
    end = time.time()
    source = Source(options.url, end - 60 * options.minutes, end)
    height = HEAD + UNIT * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = plt.figure(figsize=(WIDTH, height))
    figure.text(0.5, 1 - 0.25 / height, dashboard["title"], fontsize=13, ha="center", va="center")
    for panel in dashboard["panels"]:
        draw(figure, panel, source)
    figure.savefig(options.out, dpi=70)


class Source:
    """A Prometheus, asked from `start` to `end` (Unix times), with every variable of a dashboard set to all."""

    def __init__(self, url: str, start: float, end: float) -> None:
        self._url, self.start, self.end = url, start, end
        seen = [at for series in self.over_time("up") for at, _ in series["values"]]
        self.start = min(seen, default=start)
        self._colours: dict[str, str] = {}

    def over_time(self, query: str) -> list[dict[str, Any]]:
        """The series of a range query."""
        return self._ask("query_range", query, start=self.start, end=self.end, step=5)

    def now(self, query: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        return self._ask("query", query, time=self.end)

    def colour(self, panel: dict[str, Any], legend: str) -> str:
        """The one that the panel gives to the series, else one that the name has everywhere."""
        for override in panel["fieldConfig"]["overrides"]:
            if re.search(override["matcher"]["options"].strip("/"), legend):
                return COLOURS[override["properties"][0]["value"]["fixedColor"]]
        return self._colours.setdefault(legend, PALETTE[len(self._colours) % len(PALETTE)])

    def _ask(self, route: str, query: str, **parameters: float) -> list[dict[str, Any]]:
        query = re.sub(r"\$(model|version|task)", ".*", query).replace("$__rate_interval", "20s")
        address = f"{self._url}/api/v1/{route}?{urllib.parse.urlencode({'query': query, **parameters})}"
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310  # the user's own Prometheus
            series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return series


def draw(figure: Any, panel: dict[str, Any], source: Source) -> None:
    """One panel, or the title of a row of panels, at its place on Grafana's grid."""
    width, height = figure.get_size_inches()
    place, column = panel["gridPos"], width / COLUMNS
    x, wide, high = place["x"] * column, place["w"] * column, place["h"] * UNIT
    y = height - HEAD - place["y"] * UNIT - high
    if panel["type"] == "row":
        figure.text(0.1 / width, (y + high / 2) / height, panel["title"], fontsize=11, weight="bold", va="center")
        return
    figure.patches.append(
        Rectangle(
            ((x + 0.03) / width, (y + 0.03) / height),
            (wide - 0.06) / width,
            (high - 0.06) / height,
            transform=figure.transFigure,
            fill=False,
            edgecolor="#d0d7de",
        )
    )
    figure.text((x + 0.1) / width, (y + high - 0.1) / height, panel["title"], fontsize=9, va="top")
    inside = (LEFT, RIGHT, BOTTOM) if panel["type"] in ("timeseries", "heatmap") else (0.1, 0.1, 0.1)
    left, right, bottom = inside
    axis = figure.add_axes(
        (
            (x + left) / width,
            (y + bottom) / height,
            (wide - left - right) / width,
            (high - TOP - bottom) / height,
        )
    )
    DRAWN_BY[panel["type"]](axis, panel, source)


def draw_stat(axis: Any, panel: dict[str, Any], source: Source) -> None:
    """The latest numbers, or names, side by side, in the colours of the thresholds that they have reached."""
    axis.axis("off")
    found = [
        (name(target["legendFormat"], sample), float(sample["value"][1]))
        for target in panel["targets"]
        for sample in source.now(target["expr"])
    ]
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []})["steps"]
    for number, (legend, value) in enumerate(found):
        reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
        is_name = panel["options"]["textMode"] == "name"
        text = re.sub("[@ ]", "\n", legend) if is_name else written(panel, value)
        face = COLOURS[reached[-1]] if reached else "white"
        axis.add_patch(Rectangle((number / len(found), 0), 0.99 / len(found), 1, facecolor=face))
        axis.text((number + 0.5) / len(found), 0.5, text, ha="center", va="center", fontsize=8 if is_name else 18)


def draw_table(axis: Any, panel: dict[str, Any], source: Source) -> None:
    """The labels of each sample."""
    axis.axis("off")
    labels = [sample["metric"] for target in panel["targets"] for sample in source.now(target["expr"])]
    columns = sorted({name for each in labels for name in each} - INTERNAL)
    rows = sorted([each.get(column, "") for column in columns] for each in labels)
    if rows:
        table = axis.table(rows, colLabels=columns, loc="upper left", cellLoc="left", edges="horizontal")
        table.auto_set_font_size(False)  # matplotlib's
        table.set_fontsize(7)
        table.auto_set_column_width(range(len(columns)))


def draw_lines(axis: Any, panel: dict[str, Any], source: Source) -> None:
    """Lines, or areas above one another, with the thresholds that they come near."""
    found: list[Series] = [
        (name(target["legendFormat"], series), series)
        for target in panel["targets"]
        for series in source.over_time(target["expr"])
    ]
    defaults = panel["fieldConfig"]["defaults"]
    set_up(axis, source)
    colours = [source.colour(panel, legend) for legend, _ in found]
    if not found:
        axis.text(0.5, 0.5, "no data", ha="center", transform=axis.transAxes)
    elif defaults["custom"]["stacking"]["mode"] == "normal":
        draw_stacked(axis, found, colours)
    else:
        for (legend, series), colour in zip(found, colours, strict=True):
            times, values = zip(*series["values"], strict=True)
            axis.plot(moments(times), [float(value) for value in values], label=legend, color=colour, linewidth=1.2)
    axis.set_ylim(bottom=defaults["min"])
    top = axis.get_ylim()[1]
    for step in defaults.get("thresholds", {"steps": []})["steps"]:
        if step["value"] and step["value"] <= top:
            axis.axhline(step["value"], color=COLOURS[step["color"]], linestyle="--", linewidth=0.8)
    if words := {float(value): word["text"] for value, word in mappings(panel).items()}:
        axis.set_yticks(list(words), [word.replace(" ", "\n") for word in words.values()])
        axis.set_ylim(min(words) - 0.2, max(words) + 0.2)
    else:
        axis.yaxis.set_major_formatter(lambda value, _: written(panel, value))
    if found:
        axis.legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=4, frameon=False, borderpad=0)


def draw_stacked(axis: Any, found: Sequence[Series], colours: Sequence[str]) -> None:
    """Areas above one another; a series without a value at some time is 0 there."""
    times = sorted({at for _, series in found for at, _ in series["values"]})
    heights = [[float(dict(series["values"]).get(at, 0)) for at in times] for _, series in found]
    heights = [[0.0 if math.isnan(value) else value for value in row] for row in heights]
    axis.stackplot(moments(times), heights, labels=[legend for legend, _ in found], colors=colours, alpha=0.7)


def draw_heat_map(axis: Any, panel: dict[str, Any], source: Source) -> None:
    """Requests a second in each bucket, which is the difference of cumulative ones."""
    found = [series for target in panel["targets"] for series in source.over_time(target["expr"])]
    found.sort(key=lambda series: float(series["metric"]["le"]))
    set_up(axis, source)
    times = sorted({at for series in found for at, _ in series["values"]})
    cumulated = [[float(dict(series["values"]).get(at, 0)) for at in times] for series in found]
    cells = [
        [high - low for high, low in zip(upper, lower, strict=True)]
        for upper, lower in zip(cumulated, [[0.0] * len(times), *cumulated], strict=False)
    ]
    if cells:
        axis.pcolormesh(moments(times), range(len(found)), cells, cmap="Blues", shading="nearest")
        bounds = [written(panel, float(series["metric"]["le"])) for series in found]
        axis.set_yticks(range(0, len(found), 3), bounds[::3])


DRAWN_BY: Mapping[str, Callable[[Any, dict[str, Any], Source], None]] = {
    "stat": draw_stat,
    "table": draw_table,
    "timeseries": draw_lines,
    "heatmap": draw_heat_map,
}
"""Grafana's name of a kind of panel → what draws it."""


def set_up(axis: Any, source: Source) -> None:
    """The axis of time, and the grid."""
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    axis.set_xlim(*moments([source.start, source.end]))
    axis.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M:%S"))
    axis.xaxis.set_major_locator(matplotlib.dates.AutoDateLocator(maxticks=5))


def mappings(panel: dict[str, Any]) -> dict[str, Any]:
    """Value → the word that stands for it."""
    found: dict[str, Any] = panel["fieldConfig"]["defaults"].get("mappings", [{"options": {}}])[0]["options"]
    return found


def written(panel: dict[str, Any], value: float) -> str:
    """A value in the panel's unit."""
    return FORMATS.get(panel["fieldConfig"]["defaults"]["unit"], lambda value: f"{value:.3g}")(value)


def name(legend: str, series: dict[str, Any]) -> str:
    """Grafana's legend format."""
    return re.sub(r"{{(\w+)}}", lambda found: str(series["metric"].get(found[1], "")), legend)


def moments(times: Sequence[float]) -> list[datetime]:
    """Unix times as matplotlib draws them."""
    return [datetime.fromtimestamp(at, UTC) for at in times]


if __name__ == "__main__":
    main()
