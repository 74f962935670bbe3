"""The parts of a dashboard, and short constructors for its panels. Next: dashboards/."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from monitoring.queries import quantile

Steps = tuple[tuple[float, str], ...]
MIN_ERRORS: Steps = ((0, "green"), (0.001, "orange"), (0.01, "red"))


@dataclass(frozen=True)
class Panel:
    """One panel. queries: (PromQL, legend). unit: Grafana's name. steps: (from value, colour) thresholds."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: Literal["timeseries", "heatmap", "table"] = "timeseries"
    width: int = 8
    steps: Steps = ()
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """rows: (title, panels). Its name is its file's and the end of its address in Grafana."""

    name: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


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
