"""Service overview: what is served, traffic, errors, latency, saturation."""

from monitoring.panels import MIN_ERRORS, Dashboard, Panel, by, legend, quantiles
from monitoring.queries import OF_MODEL, each, mean, quantile, rate, share, total

COUNT = "_count"
NEAR_BOUND = ((0, "green"), (0.5, "orange"), (0.8, "red"))

SERVED = (
    Panel(
        "Versions",
        "Each version with its aliases, head, dtype and device.",
        "short",
        ((each("model_info"), ""),),
        kind="table",
        width=12,
    ),
    Panel(
        "Live",
        "1 where a model's live version answers. At 0 its requests get 503: see the alert's runbook.",
        "bool",
        ((f"min by (model) ({each('model_live', OF_MODEL)})", legend("model")),),
        width=4,
        steps=((0, "red"), (1, "green")),
    ),
    Panel(
        "States",
        "Versions by state. One that stays failed has its cause in GET /models/{name}.",
        "short",
        by(total, "model_state", "model", "version", "state"),
        width=4,
        stacked=True,
    ),
    Panel(
        "Registry",
        "Whether the registry could be read at the last poll, and how long the manager has been silent.",
        "short",
        ((f"min({each('registry_up', '')})", "up"), (f"max({each('manager_silence_seconds', '')})", "silence in s")),
        width=4,
        steps=((0, "green"), (30, "red")),
    ),
)

TRAFFIC = (
    Panel(
        "Requests per second",
        "Answered and refused requests, by model and version.",
        "reqps",
        by(rate, "request_duration_seconds", "model", "version", suffix=COUNT),
    ),
    Panel(
        "Share of server errors",
        "Requests that ended with a 5xx status, of all.",
        "percentunit",
        ((share("request_duration_seconds", "model", part='status=~"5.."', suffix=COUNT), legend("model")),),
        steps=MIN_ERRORS,
    ),
    Panel(
        "Requests by protocol and status",
        "What clients were told.",
        "reqps",
        by(rate, "request_duration_seconds", "protocol", "status", suffix=COUNT),
        stacked=True,
    ),
)

LATENCY = (
    Panel(
        "Latency of requests",
        "p50, p95 and p99 from the whole body to the answer.",
        "s",
        quantiles("request_duration_seconds", "model"),
    ),
    Panel(
        "Latency heat map",
        "How many requests took how long.",
        "s",
        by(rate, "request_duration_seconds", "le", suffix="_bucket"),
        kind="heatmap",
    ),
    Panel(
        "Where the time goes",
        "Mean time of an answered request in each stage; together they are the request.",
        "s",
        by(mean, "stage_duration_seconds", "stage"),
        stacked=True,
    ),
)

SATURATION = (
    Panel(
        "Requests in progress",
        "Requests that wait for their answer now.",
        "short",
        by(total, "requests_in_progress", "model", "version"),
        width=6,
    ),
    Panel(
        "Tokens in the queue",
        "Tokens that wait for a forward pass now.",
        "short",
        by(total, "queue_tokens", "model", "version"),
        width=6,
    ),
    Panel(
        "Queue, of its bound",
        "Past the bound, requests are refused with 429.",
        "percentunit",
        (
            (
                f"{total('queue_tokens', 'model', 'version')} / {total('queue_limit_tokens', 'model', 'version')}",
                legend("model", "version"),
            ),
        ),
        width=6,
        steps=NEAR_BOUND,
    ),
    Panel(
        "Refused requests",
        "Requests that got an error instead of an answer, by reason.",
        "reqps",
        by(rate, "rejected_total", "model", "reason", filters=OF_MODEL),
        width=6,
        stacked=True,
    ),
    Panel(
        "Rows of a batch",
        "Mean and p95 number of rows in a forward pass.",
        "short",
        ((mean("batch_rows", "model"), "{{model}} mean"), (quantile(0.95, "batch_rows", "model"), "{{model}} p95")),
    ),
    Panel(
        "Tokens of a batch",
        "Mean and p95 number of tokens in a forward pass, padding included.",
        "short",
        ((mean("batch_tokens", "model"), "{{model}} mean"), (quantile(0.95, "batch_tokens", "model"), "{{model}} p95")),
    ),
    Panel(
        "Padding",
        "Share of the computed tokens that were padding. Lower is better.",
        "percentunit",
        ((share("tokens_total", "model", part='kind="padding"'), legend("model")),),
        steps=((0, "green"), (0.2, "orange"), (0.4, "red")),
    ),
)

DASHBOARD = Dashboard(
    "overview",
    "Service overview",
    "Traffic, errors, latency and saturation of the served models.",
    (
        ("What is served", SERVED),
        ("Traffic and errors", TRAFFIC),
        ("Latency", LATENCY),
        ("Saturation", SATURATION),
    ),
)
