"""The parts of a dashboard, and short constructors for its panels. Next: dashboards/."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from monitoring.queries import quantile

GOOD, NEAR, BAD = "green", "orange", "red"
"""What a threshold says, and nothing else is drawn in: all is well, near the limit, beyond it."""
Steps = tuple[tuple[float, str], ...]
MIN_ERRORS: Steps = ((0, GOOD), (0.001, NEAR), (0.01, BAD))
FULL: Steps = ((0, GOOD), (0.9, NEAR), (0.97, BAD))
QUANTILES: Mapping[str, str] = {"p50": "light-blue", "p95": "blue", "p99": "dark-blue"}
COLOURS: Mapping[str, Mapping[str, str]] = {
    "stage": {"encode": "light-purple", "queue": "yellow", "forward": "purple", "decode": "dark-purple"},
    "kind": {"host": "light-yellow", "device": "dark-yellow"},
    "status": {"2..": GOOD, "4..": NEAR, "5..": BAD},
}
"""Label → pattern of its values → their colour in every panel. What is not here gets one by its name from Grafana, so
that a version has the same colour everywhere, too."""


@dataclass(frozen=True)
class Panel:
    """One panel. queries: (PromQL, legend). unit: Grafana's name. steps: (from value, colour) thresholds.

    kind: a stat shows the latest number, for a glance. words: what some values are shown as. shows_name: whether a
    stat shows its legend instead of the value.
    """

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: Literal["timeseries", "heatmap", "table", "stat"] = "timeseries"
    width: int = 8
    steps: Steps = ()
    stacked: bool = False
    words: tuple[tuple[float, str], ...] = ()
    shows_name: bool = False


@dataclass(frozen=True)
class Dashboard:
    """rows: (title, panels). Its name is its file's and the end of its address in Grafana."""

    name: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def stat(
    title: str,
    description: str,
    unit: str,
    query: str,
    *,
    steps: Steps = (),
    width: int = 6,
    words: tuple[tuple[float, str], ...] = (),
    name: str = "",
) -> Panel:
    """One number of the whole selection. name: a legend to show instead of the number."""
    queries = ((query, name),)
    return Panel(title, description, unit, queries, "stat", width, steps=steps, words=words, shows_name=bool(name))


def legend(*labels: str, note: str = "") -> str:
    """Grafana's legend of these labels, as `{{model}}/{{version}} p99`."""
    names = "/".join(f"{{{{{label}}}}}" for label in labels)
    return f"{names} {note}".strip()


def by(query: Callable[..., str], name: str, *labels: str, **options: str) -> tuple[tuple[str, str], ...]:
    """One query with the labels that it keeps apart as its legend."""
    return ((query(name, *labels, **options), legend(*labels)),)


def quantiles(name: str, *labels: str, levels: tuple[float, ...] = (0.5, 0.95, 0.99)) -> tuple[tuple[str, str], ...]:
    """Quantiles of a histogram, a query each."""
    return tuple((quantile(level, name, *labels), legend(*labels, note=f"p{level * 100:g}")) for level in levels)
