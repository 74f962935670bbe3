"""Service overview: what is served, traffic, errors, latency, saturation."""

from monitoring.panels import BAD, GOOD, MIN_ERRORS, NEAR, Dashboard, Panel, by, legend, quantiles, stat
from monitoring.queries import FILTER, MODEL_VERSION, OF_MODEL, each, mean, quantile, rate, share, total
from monitoring.recordings import BUDGET_LEFT, LATENCY_OF_OBJECTIVE

COUNT = "_count"
NEAR_BOUND = ((0, GOOD), (0.5, NEAR), (0.8, BAD))
QUEUE_SHARE = f"{total('queue_tokens', 'model', 'version')} / {total('queue_limit_tokens', 'model', 'version')}"
LIVE = f"max by (model) ({each('model_live', OF_MODEL)})"
NAMED = FILTER + ',alias!=""'

GLANCE = (
    stat(
        "Live version",
        "The version that each alias names. Red where a model's live version does not answer.",
        "bool",
        f"{each('model_info', NAMED)} * on (model) group_left () {LIVE}",
        steps=((0, BAD), (1, GOOD)),
        name="{{model}}@{{alias}} {{version}}",
    ),
    stat(
        "Requests per second",
        "Answered and refused requests of the selection.",
        "reqps",
        rate("request_duration_seconds", suffix=COUNT),
        width=4,
    ),
    stat(
        "Error budget left",
        "Of the model that has least: the share of the errors allowed by the objective that the last three days have "
        "not used. Below 0 the objective is missed.",
        "percentunit",
        f"min({BUDGET_LEFT}{{{OF_MODEL}}})",
        steps=((-1, BAD), (0, NEAR), (0.5, GOOD)),
        width=5,
    ),
    stat(
        "p99, of its objective",
        "Of the slowest model: the time within which the objective's share of answers came (p99 unless told "
        "otherwise), as a share of the time that the objective names. From 100 % on it is missed.",
        "percentunit",
        f"max({LATENCY_OF_OBJECTIVE}{{{OF_MODEL}}})",
        steps=((0, GOOD), (0.8, NEAR), (1, BAD)),
        width=5,
    ),
    stat(
        "Queue, of its bound",
        "Of the fullest queue. Past the bound, requests are refused with 429.",
        "percentunit",
        f"max({QUEUE_SHARE})",
        steps=NEAR_BOUND,
        width=4,
    ),
)

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
        "States",
        "Versions by state. One that stays failed has its cause in GET /models/{name}.",
        "short",
        by(total, "model_state", *MODEL_VERSION, "state"),
        width=12,
        stacked=True,
    ),
    Panel(
        "Live",
        "1 where a model's live version answers. At 0 its requests get 503: see the alert's runbook.",
        "bool",
        ((f"min by (model) ({each('model_live', OF_MODEL)})", legend("model")),),
        steps=((0, BAD), (1, GOOD)),
        words=((0, "does not answer"), (1, "answers")),
    ),
    Panel(
        "Registry",
        "Whether the registry could be read at the last poll. While it cannot, what is loaded goes on serving.",
        "bool",
        ((f"min({each('registry_up', '')})", "registry"),),
        steps=((0, BAD), (1, GOOD)),
        words=((0, "cannot be read"), (1, "up")),
    ),
    Panel(
        "Silence of the manager",
        "Time since its last sign of life. While it is silent no alias is followed.",
        "s",
        ((f"max({each('manager_silence_seconds', '')})", "manager"),),
        steps=((0, GOOD), (30, NEAR), (60, BAD)),
    ),
)

RATES = (
    Panel(
        "Requests by version",
        "Answered and refused requests, by model and version.",
        "reqps",
        by(rate, "request_duration_seconds", *MODEL_VERSION, suffix=COUNT),
    ),
    Panel(
        "Share of server errors",
        "Requests that ended with a 5xx status, of all.",
        "percentunit",
        ((share("request_duration_seconds", "model", part='status=~"5.."', suffix=COUNT), legend("model")),),
        steps=MIN_ERRORS,
    ),
    Panel(
        "Refused requests",
        "Requests that got an error instead of an answer, by reason.",
        "reqps",
        by(rate, "rejected_total", "model", "reason", filters=OF_MODEL),
        stacked=True,
    ),
    Panel(
        "Requests by status",
        "What clients were told.",
        "reqps",
        by(rate, "request_duration_seconds", "status", suffix=COUNT),
        width=12,
        stacked=True,
    ),
    Panel(
        "Requests by protocol",
        "How clients asked.",
        "reqps",
        by(rate, "request_duration_seconds", "protocol", suffix=COUNT),
        width=12,
        stacked=True,
    ),
)

STAGES = (
    Panel(
        "Latency of requests",
        "p50, p95 and p99 of the selection, from the whole body to the answer. Points are single requests that lead to "
        "their traces.",
        "s",
        quantiles("request_duration_seconds"),
    ),
    Panel(
        "Latency heat map",
        "How many requests took how long. Points are single requests that lead to their traces.",
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
    Panel(
        "p99 by model",
        "From the whole body to the answer.",
        "s",
        ((quantile(0.99, "request_duration_seconds", "model"), "{{model}}"),),
        width=12,
    ),
    Panel(
        "p99 of the stages",
        "Of answered requests. A request that is slow in one stage need not be so in the others.",
        "s",
        ((quantile(0.99, "stage_duration_seconds", "stage"), "{{stage}}"),),
        width=12,
    ),
)

SATURATION = (
    Panel(
        "Requests in progress",
        "Requests that wait for their answer now.",
        "short",
        by(total, "requests_in_progress", *MODEL_VERSION),
    ),
    Panel(
        "Tokens in the queue",
        "Tokens that wait for a forward pass now.",
        "short",
        by(total, "queue_tokens", *MODEL_VERSION),
    ),
    Panel(
        "Queue, of its bound",
        "Past the bound, requests are refused with 429.",
        "percentunit",
        ((QUEUE_SHARE, legend(*MODEL_VERSION)),),
        steps=NEAR_BOUND,
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
        steps=((0, GOOD), (0.2, NEAR), (0.4, BAD)),
    ),
)

DASHBOARD = Dashboard(
    "overview",
    "Service overview",
    "Traffic, errors, latency and saturation of the served models.",
    (
        ("At a glance", GLANCE),
        ("Rates", RATES),
        ("Latency and stages", STAGES),
        ("Saturation", SATURATION),
        ("What is served", SERVED),
    ),
)
