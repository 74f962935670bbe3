"""What the dashboard shows: its rows and their panels, a table of declarations. Next: dashboard, which places them."""

from dataclasses import dataclass
from typing import Literal

from monitoring.queries import OF_MODEL, labels, mean, quantile, quantile_so_far, rate, share, total


@dataclass(frozen=True)
class Panel:
    """One panel. queries: (PromQL, legend). unit: Grafana's name. steps: (from value, colour) thresholds."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: Literal["timeseries", "heatmap", "table"] = "timeseries"
    width: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    stacked: bool = False


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "What is served",
        (
            Panel(
                "Versions",
                "Each version with its aliases, head, dtype and device.",
                "short",
                ((labels("model_info"), ""),),
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
                "Engines started again after they ended, since the server started. Each has a cause in the log.",
                "short",
                ((total("engine_restarts_total", "model", "version"), "{{model}}/{{version}}"),),
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
                ((share("request_duration_seconds", "model", part='status=~"5.."', suffix="_count"), "{{model}}"),),
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
                    (quantile(level, "request_duration_seconds", "model"), f"{{{{model}}}} p{level * 100:g}")
                    for level in (0.5, 0.95, 0.99)
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
                ((share("tokens_total", "model", part='kind="padding"'), "{{model}}"),),
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
                "Versions that went live or failed to, since the server started.",
                "short",
                ((total("swap_total", "model", "outcome", filters=OF_MODEL), "{{model}} {{outcome}}"),),
                width=6,
            ),
            Panel(
                "Time to change",
                "p95 from seeing an alias move to serving the new version, since the server started.",
                "s",
                ((quantile_so_far(0.95, "swap_duration_seconds", "model", filters=OF_MODEL), "{{model}}"),),
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
                        quantile(level, "confidence", "model", "version"),
                        f"{{{{model}}}}/{{{{version}}}} p{level * 100:g}",
                    )
                    for level in (0.1, 0.5)
                ),
                width=6,
            ),
        ),
    ),
)
